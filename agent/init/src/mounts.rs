//! What is mounted before the host hears of the guest.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
    /// The directory is on a file system mounted just before, so the image can't hold it.
    make: bool,
}

/// None holds programs or lets one gain privileges, and devices are in `/dev`.
const PLAIN: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

const MOUNTS: &[Mount] = &[
    Mount {
        kind: "proc",
        at: "/proc",
        flags: PLAIN,
        options: None,
        make: false,
    },
    Mount {
        kind: "sysfs",
        at: "/sys",
        flags: PLAIN,
        options: None,
        make: false,
    },
    // Controllers are enabled on the way to each container's cgroup, by what makes it.
    Mount {
        kind: "cgroup2",
        at: "/sys/fs/cgroup",
        flags: PLAIN,
        options: Some("nsdelegate,memory_recursiveprot"),
        make: false,
    },
    Mount {
        kind: "devtmpfs",
        at: "/dev",
        flags: DEVICES,
        options: Some("mode=0755"),
        make: false,
    },
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: DEVICES,
        // The group is tty's in every distribution.
        options: Some("mode=0620,gid=5,ptmxmode=0666"),
        make: true,
    },
    Mount {
        kind: "tmpfs",
        at: "/dev/shm",
        flags: PLAIN,
        // As large as what containerd makes for a pod: half of a small machine's memory is less.
        options: Some("mode=1777,size=65536k"),
        make: true,
    },
    Mount {
        kind: "tmpfs",
        at: "/run",
        flags: PLAIN,
        options: Some("mode=0755"),
        make: false,
    },
];

/// Makes all of them; or names the place that can't be mounted on, and why.
pub(crate) fn make() -> Result<(), (&'static str, Errno)> {
    for wanted in MOUNTS {
        make_one(wanted).map_err(|why| (wanted.at, why))?;
    }
    Ok(())
}

fn make_one(wanted: &Mount) -> Result<(), Errno> {
    if wanted.make {
        mkdir(wanted.at, Mode::from_bits_truncate(0o755))?;
    }
    mount(
        Some(wanted.kind),
        wanted.at,
        Some(wanted.kind),
        wanted.flags,
        wanted.options,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_over_what_was_mounted_before() {
        for (number, later) in MOUNTS.iter().enumerate() {
            for earlier in &MOUNTS[..number] {
                assert!(!earlier.at.starts_with(later.at), "{}", earlier.at);
            }
        }
    }

    #[test]
    fn every_mount_is_as_tight_as_it_can_be() {
        for mount in MOUNTS {
            assert!(mount.flags.contains(DEVICES), "{}", mount.at);
            let holds_devices = matches!(mount.kind, "devtmpfs" | "devpts");
            assert_eq!(
                mount.flags.contains(MsFlags::MS_NODEV),
                !holds_devices,
                "{}",
                mount.at
            );
        }
    }
}
