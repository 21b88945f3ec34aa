//! What a rig's containers leave behind when they are gone: it should be nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{cgroup, namespaces};

/// Everything found, one line each.
#[derive(Debug, Default)]
pub struct Leftovers(pub Vec<String>);

impl Leftovers {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// A process that belongs to a rig.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub line: String,
}

/// The environment variable that all programs of a rig have: its directory.
pub const MARK: &str = "TREFOIL_RIG";

/// The processes that belong to the rig in `directory`: those that were started with its mark,
/// or are in its cgroups, other than ourselves.
///
/// A container's process has no mark; it is recognised by what is mounted as its root, even where
/// its cgroup has none of the rig's names. (Only the root: a process that just made its mount
/// namespace has copies of everyone's mounts.)
pub fn processes(directory: &Path) -> Result<Vec<Process>> {
    let text = directory.to_string_lossy().into_owned();
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let own_mounts = fs::metadata("/proc/self/ns/mnt")?.ino();
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if u32::try_from(pid).is_ok_and(|pid| pid == own) {
            continue;
        }
        // A process that ends while we look is none.
        let path = entry.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .trim()
            .to_owned();
        if line.is_empty() {
            continue; // A kernel thread, or dead and waiting for its parent.
        }
        let cgroups = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        let elsewhere =
            fs::metadata(path.join("ns/mnt")).is_ok_and(|data| data.ino() != own_mounts);
        let ours = has_variable(&path, MARK, Some(&text))
            || (line.contains("containerd-shim-") && line.contains(&text))
            || cgroups.contains(&format!("/{name}"))
            || (elsewhere && root_mount(&path).is_some_and(|mount| mount.contains(&text)));
        if ours && !has_variable(&path, crate::guard::MARK, None) {
            found.push(Process { pid, line });
        }
    }
    Ok(found)
}

/// The loop devices that are of a file in the directory.
fn loop_devices(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(file.trim_end()).starts_with(directory) {
            let device = entry.file_name();
            found.push(format!("{} of {}", device.display(), file.trim_end()));
        }
    }
    Ok(found)
}

fn root_mount(process: &Path) -> Option<String> {
    let table = fs::read_to_string(process.join("mountinfo")).ok()?;
    table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .map(str::to_owned)
}

/// Whether a process was started with a variable, and with this value if one is given.
fn has_variable(process: &Path, name: &str, value: Option<&str>) -> bool {
    let start = format!("{name}={}", value.unwrap_or_default());
    let holds = |entry: &[u8]| match value {
        Some(_) => entry == start.as_bytes(),
        None => entry.starts_with(start.as_bytes()),
    };
    fs::read(process.join("environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(holds))
}

/// What is left in the rig in `directory` although all its pods and containers have been removed.
/// The processes in `expected` (containerd's) and their children may be there.
pub fn find(directory: &Path, expected: &[u32]) -> Result<Leftovers> {
    let mut found = Vec::new();
    for process in processes(directory)? {
        let known = |pid: i32| u32::try_from(pid).is_ok_and(|pid| expected.contains(&pid));
        if !known(process.pid) && !parent(process.pid).is_some_and(known) {
            found.push(format!("process {}: {}", process.pid, process.line));
        }
    }
    let namespaces = directory.join("ns");
    for point in namespaces::mounts_below(directory)? {
        if !point.starts_with(&namespaces) {
            found.push(format!("mount {}", point.display()));
        }
    }
    found.extend(loop_devices(directory)?);
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut groups = BTreeSet::new();
    for path in cgroup::below(&name)? {
        // The same one in each hierarchy.
        let path = path.to_string_lossy().into_owned();
        groups.insert(
            path.rsplit_once(&name)
                .map_or_else(|| path.clone(), |(_, below)| format!("/{name}{below}")),
        );
    }
    found.extend(groups.iter().map(|group| format!("cgroup {group}")));
    for pattern in [
        // Bundles, and what shims keep beside them.
        "state/io.containerd.runtime.v2.task/*/*",
        "root/io.containerd.runtime.v2.task/*/*",
        "state/io.containerd.sandbox.controller.v1.shim/*/*",
        "state/io.containerd.grpc.v1.cri/*/*",
        "root/io.containerd.grpc.v1.cri/*/*",
        // Sockets, the stock runtime's state, ours, addresses that CNI handed out.
        "s/*",
        "runc/*/*",
        "fifo/*",
        "cni-state/networks/*/10.*",
    ] {
        for path in expand(directory, pattern) {
            found.push(format!("file {}", path.display()));
        }
    }
    let text = directory.to_string_lossy();
    for entry in fs::read_dir("/var/lib/cni/results")
        .into_iter()
        .flatten()
        .flatten()
    {
        // Each names the network namespace it is about, which lies in the directory.
        if fs::read_to_string(entry.path()).is_ok_and(|content| content.contains(&*text)) {
            found.push(format!("file {}", entry.path().display()));
        }
    }
    Ok(Leftovers(found))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The paths that match a pattern in which a component may begin or be a `*`.
fn expand(directory: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![directory.to_owned()];
    for component in pattern.split('/') {
        let mut next = Vec::new();
        for path in paths {
            if let Some(start) = component.strip_suffix('*') {
                for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                    if entry.file_name().to_string_lossy().starts_with(start) {
                        next.push(entry.path());
                    }
                }
            } else if path.join(component).exists() {
                next.push(path.join(component));
            }
        }
        paths = next;
    }
    paths
}
