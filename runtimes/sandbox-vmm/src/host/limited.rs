//! Whether the host limits a pod to what CRI tells: the sums of the limits that its containers have say
//! nothing of the containers that have none.
//!
//! A kubelet gives a pod's cgroup a limit only where every container has one. The pod's cgroup is the
//! parent of its processes'. What can't be read is no limit: a machine that is too large takes nothing
//! that its guest does not use, one that is too small ends containers.

use std::fmt;
use std::path::Path;

use trefoil_cgroups::{Cgroup, Hierarchies};

/// Limits of cgroup v1 from here on are none: the kernel's own word for none is the largest number of
/// bytes that is whole pages.
const UNLIMITED: u64 = 1 << 62;

/// In what the host limits a pod as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limited {
    /// Processors.
    pub cpus: bool,
    /// Memory.
    pub memory: bool,
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = |limit| if limit { "one" } else { "none" };
        let (cpus, memory) = (is_there(self.cpus), is_there(self.memory));
        write!(f, "{cpus} of processors and {memory} of memory")
    }
}

impl Limited {
    /// In all: what a lone container is limited to is what it asks for.
    pub const ENTIRELY: Self = Self {
        cpus: true,
        memory: true,
    };

    /// What the pod is limited in whose processes are to be in this cgroup, which need not exist.
    pub fn find(cgroup: &Cgroup) -> Self {
        match cgroup.hierarchies() {
            Ok(hierarchies) => Self::above(&hierarchies),
            Err(why) => {
                log::warn!("look for the limits of the pod's cgroup: {why}");
                Self::default()
            }
        }
    }

    fn above(hierarchies: &Hierarchies) -> Self {
        match hierarchies {
            Hierarchies::V2(directory) => Self {
                cpus: says(directory, "cpu.max", |text| !text.starts_with("max")),
                memory: says(directory, "memory.max", |text| text != "max"),
            },
            Hierarchies::V1(all) => {
                let of = |controller: &str| {
                    let has = |option: &String| option == controller;
                    let found = all.iter().find(|one| one.options.iter().any(has));
                    found.map_or(Path::new(""), |one| &one.directory)
                };
                Self {
                    cpus: says(of("cpu"), "cpu.cfs_quota_us", |text| {
                        text.parse::<i64>().is_ok_and(|quota| quota > 0)
                    }),
                    memory: says(of("memory"), "memory.limit_in_bytes", |text| {
                        text.parse::<u64>().is_ok_and(|limit| limit < UNLIMITED)
                    }),
                }
            }
        }
    }
}

/// Whether a file of the cgroup above says so. The root of a hierarchy has none.
fn says(directory: &Path, file: &str, what: impl Fn(&str) -> bool) -> bool {
    let Some(parent) = directory.parent() else {
        return false;
    };
    std::fs::read_to_string(parent.join(file)).is_ok_and(|text| what(text.trim()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use trefoil_cgroups::Hierarchy;

    use super::*;

    /// A cgroup below one with these files.
    fn below(parent: &Path, files: &[(&str, &str)]) -> PathBuf {
        std::fs::create_dir_all(parent).expect("directory");
        for (file, text) in files {
            std::fs::write(parent.join(file), text).expect("file");
        }
        parent.join("sandbox")
    }

    fn of_v2(files: &[(&str, &str)]) -> (bool, bool) {
        let parent = tempfile::tempdir().expect("directory");
        let limited = Limited::above(&Hierarchies::V2(below(parent.path(), files)));
        (limited.cpus, limited.memory)
    }

    #[test]
    fn a_limit_is_one_that_the_pods_cgroup_has() {
        let none = [("cpu.max", "max 100000\n"), ("memory.max", "max\n")];
        assert_eq!(of_v2(&none), (false, false));
        let memory = [("cpu.max", "max 100000\n"), ("memory.max", "67108864\n")];
        assert_eq!(of_v2(&memory), (false, true));
        let cpus = [("cpu.max", "150000 100000\n"), ("memory.max", "max\n")];
        assert_eq!(of_v2(&cpus), (true, false));
        assert_eq!(of_v2(&[]), (false, false));
    }

    #[test]
    fn each_controller_of_v1_is_asked_where_it_is() {
        let root = tempfile::tempdir().expect("directory");
        let hierarchy = |options: &[&str], name: &str, files: &[(&str, &str)]| Hierarchy {
            name: options.join(","),
            options: options.iter().map(|one| (*one).to_owned()).collect(),
            directory: below(&root.path().join(name), files),
        };
        let of = |quota: &str, limit: &str| {
            let limited = Limited::above(&Hierarchies::V1(vec![
                hierarchy(&["none", "name=systemd"], "systemd", &[]),
                hierarchy(&["cpu", "cpuacct"], "cpu", &[("cpu.cfs_quota_us", quota)]),
                hierarchy(&["memory"], "mem", &[("memory.limit_in_bytes", limit)]),
            ]));
            (limited.cpus, limited.memory)
        };
        assert_eq!(of("-1\n", "9223372036854771712\n"), (false, false));
        assert_eq!(of("50000\n", "134217728\n"), (true, true));
        assert_eq!(of("", "no number"), (false, false));
    }

    #[test]
    fn a_cgroup_of_this_machines_is_found() {
        // Whatever this machine has: the parent is the root, which has no limit.
        let cgroup = Cgroup::new(Some(Path::new("/trefoil-limited")), "id", false).expect("cgroup");
        assert_eq!(Limited::find(&cgroup), Limited::default());
    }
}
