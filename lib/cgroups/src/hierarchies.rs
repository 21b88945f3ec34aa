//! The cgroup v1 hierarchies of this machine: which controllers each has, its name, where it is
//! mounted; and what of them a container gets to see.
//!
//! `/proc/self/cgroup` says which hierarchies there are, `/proc/self/mountinfo` where. A mount belongs
//! to the hierarchy all of whose controllers, and whose name, are among its options: what its mount
//! point is called says nothing. It never mounts anything.

use std::fs;
use std::path::{Path, PathBuf};

use libcgroups::common::DEFAULT_CGROUP_ROOT;
use trefoil_os::mountinfo::{self, MountInfo};

use super::error::{Doing, Result};

/// A container's cgroup in each hierarchy that it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// Those of cgroup v1, with controllers or merely named. A hybrid machine's v2 hierarchy is not
    /// among them: the container's processes are in a cgroup of their own there, too, but see none of
    /// it, as with runc.
    V1(Vec<Hierarchy>),
    /// The container's cgroup on the host.
    V2(PathBuf),
}

/// A hierarchy of cgroup v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The name of its directory below `/sys/fs/cgroup`: `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// What fsconfig is told, so that it mounts this hierarchy: `cpu` and `cpuacct`; `none` and
    /// `name=systemd`.
    pub options: Vec<String>,
    /// The container's cgroup on the host.
    pub directory: PathBuf,
}

/// A v1 hierarchy as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its controllers and, as `name=…`, its name.
    pub entries: Vec<String>,
}

impl Mounted {
    /// Whether it has a controller.
    pub fn has(&self, controller: &str) -> bool {
        self.entries.iter().any(|entry| entry == controller)
    }

    /// What fsconfig is told of it.
    pub fn options(&self) -> Vec<String> {
        let bare = self.entries.iter().all(|entry| entry.starts_with("name="));
        let none = bare.then(|| "none".to_owned());
        none.into_iter().chain(self.entries.clone()).collect()
    }
}

/// The v1 hierarchies that are mounted here.
pub(super) fn mounted() -> Result<Vec<Mounted>> {
    let (mountinfo, cgroups) = (
        Path::new("/proc/self/mountinfo"),
        Path::new("/proc/self/cgroup"),
    );
    let mounts = fs::read(mountinfo).doing("read", mountinfo)?;
    let known = fs::read_to_string(cgroups).doing("read", cgroups)?;
    Ok(parse(&mounts, &known))
}

/// Finds them in the contents of `/proc/self/mountinfo` and `/proc/self/cgroup`. Of several mounts of
/// one hierarchy the first counts, but those in the usual place come before all others.
pub(super) fn parse(mountinfo: &[u8], cgroups: &str) -> Vec<Mounted> {
    let mut mounts: Vec<MountInfo> = mountinfo::parse(mountinfo)
        .filter(|mount| mount.kind == "cgroup")
        .collect();
    let usual = Path::new(DEFAULT_CGROUP_ROOT);
    mounts.sort_by_key(|mount| mount.point.parent() != Some(usual));
    cgroups
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        // v2's hierarchy has no entries.
        .filter(|entries| !entries.is_empty())
        .filter_map(|entries| {
            let entries: Vec<String> = entries.split(',').map(str::to_owned).collect();
            let mount = mounts.iter().find(|mount| {
                entries
                    .iter()
                    .all(|entry| mount.super_options.contains(entry))
            })?;
            let point = mount.point.clone();
            Some(Mounted { point, entries })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTINFO: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
33 31 0:30 /docker/1 /somewhere/with\\040space/memory rw - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:30 / /sys/fs/cgroup/odd rw - cgroup cgroup rw,seclabel,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /mnt/pids rw - cgroup cgroup rw,pids
";
    const CGROUPS: &str =
        "5:pids:/\n4:memory:/a\n3:cpu,cpuacct:/\n2:name=systemd:/\n6:freezer:/\n0::/\n";

    #[test]
    fn hierarchies_are_found_by_their_options() {
        let found = parse(MOUNTINFO, CGROUPS);
        let shown: Vec<_> = found
            .iter()
            .map(|mounted| format!("{} {:?}", mounted.point.display(), mounted.options()))
            .collect();
        assert_eq!(
            shown,
            [
                r#"/mnt/pids ["pids"]"#,
                r#"/sys/fs/cgroup/odd ["memory"]"#,
                r#"/sys/fs/cgroup/cpu,cpuacct ["cpu", "cpuacct"]"#,
                r#"/sys/fs/cgroup/systemd ["none", "name=systemd"]"#,
            ]
        );
    }

    #[test]
    fn a_mount_point_may_contain_anything() {
        let only = MOUNTINFO.split(|byte| *byte == b'\n').nth(1).unwrap();
        let found = parse(only, CGROUPS);
        assert_eq!(
            found[0].point,
            Path::new("/somewhere/with space/memory"),
            "the only mount counts wherever it is"
        );
    }

    proptest! {
        #[test]
        fn anything_is_read(mountinfo: Vec<u8>, cgroups in "\\PC{0,40}") {
            parse(&mountinfo, &cgroups);
        }
    }
}
