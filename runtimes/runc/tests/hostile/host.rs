//! What of the host must be as before when a container is gone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::setting;

/// What is on its way out may take this part of what a container may.
const LEAVING: u32 = 10;

/// What there was when all was well.
pub struct Host {
    canary: PathBuf,
    cgroups: Vec<PathBuf>,
    before: Facts,
}

#[derive(Debug, PartialEq)]
struct Facts {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<i32>,
    descriptors: usize,
    hostname: String,
}

impl Host {
    /// The host as it is now.
    pub fn new(canary: &Path) -> Self {
        Self {
            canary: canary.to_owned(),
            cgroups: Vec::new(),
            before: Facts::now(canary, &[]),
        }
    }

    /// The same host after a first container, where containers' cgroups are made in these directories.
    #[must_use]
    pub fn with_cgroups(mut self, cgroups: Vec<PathBuf>) -> Self {
        self.before = Facts {
            // Of the container's some may be on their way out.
            processes: self.before.processes,
            ..Facts::now(&self.canary, &cgroups)
        };
        self.cgroups = cgroups;
        self
    }

    /// Forgets mounts that are not the place's and went, as they do when somebody else on the machine
    /// removes the directory below them.
    fn forget_others(&mut self, now: &Facts) {
        let base = self.canary.parent().unwrap().display().to_string();
        let tops = ["/proc", "/sys", "/dev", &base];
        self.before.mounts.retain(|line| {
            let place = line.split(' ').nth(4).unwrap_or_default();
            now.mounts.contains(line) || tops.iter().any(|top| place.starts_with(top))
        });
    }

    /// What is not as it was, and doesn't come to be so soon.
    pub async fn changed(&mut self) -> Vec<String> {
        let deadline = Instant::now() + setting::most() / LEAVING;
        loop {
            let now = Facts::now(&self.canary, &self.cgroups);
            self.forget_others(&now);
            if now == self.before {
                return Vec::new();
            }
            if Instant::now() > deadline {
                return self.before.differences(&now);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes what there is for all that there was, should it still not be as before.
    pub async fn settle(&mut self) {
        if !self.changed().await.is_empty() {
            self.before = Facts::now(&self.canary, &self.cgroups);
        }
    }

    /// The directories that the containers' cgroups are made in.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Kills all processes that were not there before.
    pub fn kill_the_others(&self) {
        for pid in processes().difference(&self.before.processes) {
            let pid = nix::unistd::Pid::from_raw(*pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Facts {
    fn now(canary: &Path, cgroups: &[PathBuf]) -> Self {
        Self {
            mounts: mounts(canary),
            cgroups: cgroups.iter().flat_map(|path| names(path)).collect(),
            processes: processes(),
            descriptors: names(Path::new("/proc/self/fd")).len(),
            hostname: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        }
    }

    fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, before: &BTreeSet<String>, now: &BTreeSet<String>| {
            found.extend(
                now.difference(before)
                    .map(|new| format!("{what} {new} is left")),
            );
            found.extend(
                before
                    .difference(now)
                    .map(|old| format!("{what} {old} is gone")),
            );
        };
        compare("the mount", &self.mounts, &now.mounts);
        compare("the cgroup", &self.cgroups, &now.cgroups);
        let told = |pids: &BTreeSet<i32>| pids.iter().map(|pid| describe(*pid)).collect();
        compare("the process", &told(&self.processes), &told(&now.processes));
        if self.descriptors != now.descriptors {
            let (before, now) = (self.descriptors, now.descriptors);
            found.push(format!("the server had {before} descriptors and has {now}"));
        }
        if self.hostname != now.hostname {
            found.push(format!("the host's name became {}", now.hostname));
        }
        found
    }
}

/// The mounts but for the canary itself, which is made anew at times.
fn mounts(canary: &Path) -> BTreeSet<String> {
    let canary = format!(" {} ", canary.display());
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| !line.contains(&canary))
        .map(str::to_owned)
        .collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        // Of a cgroup only those below.
        .filter(|entry| entry.path().is_dir() || directory.starts_with("/proc"))
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// Those of the place, as the test is its first.
fn processes() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn describe(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim())
}

/// What a container's init has that it must not have: anything of a filesystem, by its number, and
/// directories and files of mounts that are not its own.
pub fn reaches(init: u32, device: u64) -> Vec<String> {
    let mut found = Vec::new();
    let numbers = format!(" {}:{} ", libc::major(device), libc::minor(device));
    let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let of_it = mounts.lines().filter(|line| line.contains(&numbers));
    found.extend(of_it.map(|line| format!("the container has the mount {line}")));
    let leads = |path: &Path| fs::read_link(path).unwrap_or_default();
    for name in ["cwd", "root", "exe"] {
        let path = PathBuf::from(format!("/proc/{init}/{name}"));
        if fs::metadata(&path).is_ok_and(|found| found.dev() == device) {
            found.push(format!("its {name} is {}", leads(&path).display()));
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{init}/fd"));
    for entry in descriptors.into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(file) = fs::metadata(&path) else {
            continue;
        };
        let of_a_tree = file.is_dir() || file.is_file();
        if file.dev() == device || of_a_tree && !is_of(&mounts, init, &entry.file_name()) {
            found.push(format!("it has {} open", leads(&path).display()));
        }
    }
    found
}

/// Whether a descriptor of a process is of one of these mounts, or of none that has a place. Source:
/// proc_pid_fdinfo(5) and proc_pid_mountinfo(5).
fn is_of(mounts: &str, pid: u32, descriptor: &OsStr) -> bool {
    let path = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let about = fs::read_to_string(path.join(descriptor)).unwrap_or_default();
    let Some(id) = about.lines().find_map(|line| line.strip_prefix("mnt_id:")) else {
        return true;
    };
    let begins = |mounts: &str| {
        let id = format!("{} ", id.trim());
        mounts.lines().any(|line| line.starts_with(&id))
    };
    // A memory file's mount is nobody's.
    begins(mounts) || !begins(&fs::read_to_string("/proc/self/mountinfo").unwrap())
}

/// The directories of a process's cgroups, in all hierarchies.
pub fn cgroups(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let file = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let hierarchies = mounts.lines().filter_map(hierarchy);
    let directories = hierarchies.filter_map(|(mount, root, names)| {
        let line = file.lines().find(|line| {
            let controllers = line.split(':').nth(1).unwrap_or_default();
            match controllers {
                "" => names == ["cgroup2"],
                _ => names.contains(&controllers.split(',').next().unwrap_or_default()),
            }
        })?;
        let path = line.splitn(3, ':').nth(2)?;
        let below = path.strip_prefix(root).unwrap_or(path);
        Some(Path::new(mount).join(below.trim_start_matches('/')))
    });
    directories.filter(|path| path.is_dir()).collect()
}

/// A mount's place, root and names, if it is a hierarchy of cgroups.
fn hierarchy(line: &str) -> Option<(&str, &str, Vec<&str>)> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, mount) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let kind = back.next()?;
    let options = back.nth(1)?;
    match kind {
        "cgroup2" => Some((mount, root, vec!["cgroup2"])),
        "cgroup" => Some((mount, root, options.split(',').collect())),
        _ => None,
    }
}
