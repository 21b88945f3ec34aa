//! Placing the process in the container's cgroups.
//!
//! Where the host put the container decides; where its init is now fills the gaps:
//!
//! * a hierarchy for which the caller named no directory (on hybrid hosts the bookkeeping ones,
//!   such as `name=systemd`, or all of them when the caller knows none) is joined where init is;
//! * on cgroup v2 a container that was delegated its cgroup may have moved its processes into
//!   children and enabled controllers for them, after which the configured directory refuses
//!   processes (EBUSY). Then init's present cgroup is joined instead.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use trefoil_os::mountinfo::{self, MountInfo};

use crate::setup::error::{Doing, Failure};
use crate::setup::hostproc::HostProc;

/// Moves this process into the cgroups of the container whose init is `init`.
///
/// A frozen (paused) container's cgroups freeze whoever joins: the caller checks that first.
pub(crate) fn join(proc: &HostProc, init: Pid, configured: &[PathBuf]) -> Result<(), Failure> {
    let mounts = proc
        .read("self/mountinfo")
        .doing(|| "read where the host's cgroups are mounted")?;
    let directories_of = |process: &str| {
        proc.read(&format!("{process}/cgroup"))
            .doing(|| format!("read which cgroups process {process} is in"))
            .map(|members| current_directories(&members, &mounts))
    };
    let (inits, ours) = (directories_of(&init.to_string())?, directories_of("self")?);
    // Moving a process makes every processor wait; being moved to where one is, too.
    let enter = |directory: &Path| match ours.iter().any(|one| one == directory) {
        true => Ok(()),
        false => enter(directory),
    };

    let mut joined = Vec::new();
    for directory in configured {
        let device = std::fs::metadata(directory).map(|metadata| metadata.dev());
        match enter(directory) {
            Ok(()) => joined.extend(device),
            Err(errno) => {
                let fallback = unified(directory, &inits).ok_or(errno);
                let instead = fallback.doing(|| joining(directory))?;
                enter(&instead).doing(|| joining(&instead))?;
                joined.extend(std::fs::metadata(&instead).map(|metadata| metadata.dev()));
            }
        }
    }
    for directory in inits {
        let device = std::fs::metadata(&directory).map(|metadata| metadata.dev());
        if !device.is_ok_and(|device| joined.contains(&device)) {
            enter(&directory).doing(|| joining(&directory))?;
        }
    }
    Ok(())
}

fn joining(directory: &Path) -> String {
    format!("join the container's cgroup {}", directory.display())
}

/// Zero is the kernel's word for "whoever writes this".
fn enter(directory: &Path) -> Result<(), Errno> {
    let file = directory.join("cgroup.procs");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"0\n"));
    written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// Init's cgroup in the v2 hierarchy, if `refused` is a directory of that hierarchy (or is gone
/// from a host that has no other) and another than init's.
fn unified(refused: &Path, current: &[PathBuf]) -> Option<PathBuf> {
    let is_unified =
        |path: &Path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let ancestor = refused.ancestors().find(|path| path.exists())?;
    if !is_unified(ancestor) {
        return None;
    }
    current
        .iter()
        .find(|path| is_unified(path) && *path != refused)
        .cloned()
}

/// The directories, on this host's mounts, of the cgroups listed in a `/proc/<pid>/cgroup`.
/// A hierarchy that is mounted nowhere has no directory.
fn current_directories(members: &str, mounts: &str) -> Vec<PathBuf> {
    let mounts: Vec<_> = mountinfo::parse(mounts.as_bytes())
        .filter_map(CgroupMount::of)
        .collect();
    members
        .lines()
        .filter_map(Member::parse)
        .filter_map(|member| mounts.iter().find_map(|mount| mount.directory_of(&member)))
        .collect()
}

/// One line of `/proc/<pid>/cgroup`.
struct Member<'a> {
    /// "" for the v2 hierarchy, "cpu,cpuacct" or "name=systemd" for a v1 one.
    controllers: &'a str,
    path: &'a str,
}

impl<'a> Member<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let (_hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        // A path with ".." lies outside this process's cgroup namespace.
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return None;
        }
        Some(Self { controllers, path })
    }
}

/// One mount of a cgroup hierarchy, from `/proc/self/mountinfo`.
struct CgroupMount {
    /// The cgroup that is visible at the mount point.
    root: PathBuf,
    point: PathBuf,
    /// None for v2; for v1 the options of the superblock, the controllers among them.
    options: Option<Vec<String>>,
}

impl CgroupMount {
    fn of(mount: MountInfo) -> Option<Self> {
        let options = match mount.kind.as_str() {
            "cgroup2" => None,
            "cgroup" => Some(mount.super_options),
            _ => return None,
        };
        Some(Self {
            root: mount.root,
            point: mount.point,
            options,
        })
    }

    fn directory_of(&self, member: &Member<'_>) -> Option<PathBuf> {
        let matches = match &self.options {
            None => member.controllers.is_empty(),
            Some(options) => {
                !member.controllers.is_empty()
                    && member
                        .controllers
                        .split(',')
                        .all(|controller| options.iter().any(|option| option == controller))
            }
        };
        let below = Path::new(member.path).strip_prefix(&self.root).ok()?;
        matches.then(|| self.point.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn hybrid_hosts_have_a_directory_for_each_hierarchy() {
        let members = "9:name=systemd:/\n4:memory:/pods/a\n2:cpu,cpuacct:/pods/a\n\
                       3:cpuset:/nowhere\n0::/pods/a\n";
        assert_eq!(
            current_directories(members, HYBRID),
            paths(&[
                "/sys/fs/cgroup/systemd/",
                "/sys/fs/cgroup/memory/pods/a",
                "/sys/fs/cgroup/cpu,cpuacct/pods/a",
                "/sys/fs/cgroup/unified/pods/a",
            ])
        );
    }

    #[test]
    fn unified_hosts_have_one() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let members = "0::/kubepods.slice/pod1/c:1\n";
        assert_eq!(
            current_directories(members, mounts),
            paths(&["/sys/fs/cgroup/kubepods.slice/pod1/c:1"])
        );
    }

    #[test]
    fn a_mount_may_show_only_a_part_of_the_hierarchy() {
        let mounts = "30 23 0:26 /docker/x /sys/fs/cg\\040roup rw - cgroup cgroup rw,memory\n";
        assert_eq!(
            current_directories("4:memory:/docker/x/y\n", mounts),
            paths(&["/sys/fs/cg roup/y"])
        );
        assert!(current_directories("4:memory:/docker/z\n", mounts).is_empty());
        assert!(current_directories("4:memory:/../outside\n", mounts).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers(members in "\\PC{0,200}", mounts in "\\PC{0,200}") {
            current_directories(&members, &mounts);
        }

        #[test]
        fn a_directory_is_always_below_its_mount(path in "(/[a-z.:]{1,8}){1,4}") {
            for directory in current_directories(&format!("4:memory:{path}"), HYBRID) {
                prop_assert!(directory.starts_with("/sys/fs/cgroup/memory"));
                prop_assert!(!directory.components().any(|part| part.as_os_str() == ".."));
            }
        }
    }
}
