//! The machine's cgroups, whichever version it has, seen as directories by name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root directories of all mounted hierarchies: one on version 2, one per controller on 1.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut roots = Vec::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        if after.starts_with("cgroup")
            && let Some(point) = before.split(' ').nth(4)
            && !roots.iter().any(|root| root == Path::new(point))
        {
            roots.push(PathBuf::from(point));
        }
    }
    Ok(roots)
}

/// All cgroups below `/name`, in every hierarchy, children before their parents.
pub fn below(name: &str) -> Result<Vec<PathBuf>> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                walk(&path, found);
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for root in hierarchies()? {
        walk(&root.join(name), &mut found);
    }
    Ok(found)
}

/// Makes the cgroup `/parent/name` with a limit of memory, in bytes: what a kubelet makes for a pod.
pub fn limited(parent: &str, name: &str, memory: u64) -> Result<()> {
    for root in hierarchies()? {
        let directory = root.join(parent).join(name);
        fs::create_dir_all(&directory)?;
        if root.join("cgroup.controllers").exists() {
            for above in [root.clone(), root.join(parent)] {
                fs::write(above.join("cgroup.subtree_control"), "+memory")
                    .with_context(|| format!("limiting memory below {}", above.display()))?;
            }
        }
        for file in ["memory.max", "memory.limit_in_bytes"] {
            let file = directory.join(file);
            if file.exists() {
                fs::write(&file, memory.to_string())
                    .with_context(|| format!("writing {}", file.display()))?;
                return Ok(());
            }
        }
        fs::remove_dir(&directory)?;
    }
    bail!("no hierarchy limits memory")
}

/// Removes the cgroups below `/parent` whose names begin so, unless something is in or below them.
pub fn remove_empty(parent: &str, prefix: &str) -> Result<()> {
    for root in hierarchies()? {
        let Ok(entries) = fs::read_dir(root.join(parent)) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
    Ok(())
}

/// Removes the cgroup `/name` and all below it, and says whether all of it is gone: what still
/// holds processes stays.
pub fn remove(name: &str) -> Result<bool> {
    for path in below(name)? {
        drop(fs::remove_dir(path));
    }
    let mut gone = true;
    for root in hierarchies()? {
        let path = root.join(name);
        drop(fs::remove_dir(&path));
        gone &= !path.exists();
    }
    Ok(gone)
}

/// The file that accounts CPU time, below the cgroup `/name`, and how to read it.
#[derive(Clone, Debug)]
pub struct CpuClock(PathBuf);

impl CpuClock {
    /// The clock of `/name`, which is made if need be and then holds the process `pid`, if any.
    pub fn new(name: &str, pid: Option<u32>) -> Result<Self> {
        for root in hierarchies()? {
            for file in ["cpuacct.usage", "cpu.stat"] {
                // The version 1 controller "cpu" has a cpu.stat too, of something else.
                let counts = file == "cpuacct.usage" || root.join("cgroup.controllers").exists();
                if counts && root.join(file).exists() {
                    let directory = root.join(name);
                    fs::create_dir_all(&directory)?;
                    if let Some(pid) = pid {
                        fs::write(directory.join("cgroup.procs"), pid.to_string())?;
                    }
                    return Ok(Self(directory.join(file)));
                }
            }
        }
        anyhow::bail!("no cgroup hierarchy accounts CPU time")
    }

    /// The cgroup's directory in the hierarchy that accounts it.
    pub fn directory(&self) -> &Path {
        self.0.parent().unwrap_or(&self.0)
    }

    /// Seconds of CPU used so far by all that is and ever was in it.
    pub fn seconds(&self) -> Result<f64> {
        let text =
            fs::read_to_string(&self.0).with_context(|| format!("reading {}", self.0.display()))?;
        if let Some(microseconds) = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
        {
            return Ok(microseconds.trim().parse::<f64>()? / 1e6);
        }
        Ok(text.trim().parse::<f64>()? / 1e9)
    }
}
