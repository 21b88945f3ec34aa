//! A container's root filesystem: mounting what containerd's snapshotter prepared, and unmounting it.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use trefoil_core::{Context, Error, Mount, Result};

use crate::idmap;

/// Mounts lie upon each other in one place at most this often; more is a loop of our own making.
const MOST_MOUNTS: usize = 128;

/// Mounts `mounts` at `target`, each upon the one before. Runs in a worker: long overlay options make
/// the library change the working directory.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(target).context(|| format!("make {}", target.display()))?;
    for mount in mounts {
        let place = match mount.target.trim_start_matches('/') {
            "" => target.to_owned(),
            below if Path::new(below).components().any(is_upwards) => {
                return Err(Error::invalid(format!(
                    "mount {} at {}: that leaves the root filesystem",
                    mount.source, mount.target
                )));
            }
            below => target.join(below),
        };
        mount_one(mount, &place).map_err(|why| {
            why.context(format!(
                "mount the root filesystem ({} of {})",
                mount.kind, mount.source
            ))
        })?;
    }
    Ok(())
}

fn mount_one(mount: &Mount, place: &Path) -> Result<()> {
    let (mappings, options) = idmap::take_options(&mount.options)?;
    let mount_plain = |options: &[String], place: &Path| {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        containerd_shim::mount::mount_rootfs(
            some(&mount.kind).as_deref(),
            some(&mount.source).as_deref(),
            options,
            place,
        )
        .map_err(|why| Error::internal(why.to_string()))
    };
    match mappings {
        None => mount_plain(&options, place),
        Some(mappings) => idmap::mount(&mount.kind, &options, &mappings, place, mount_plain),
    }
}

fn is_upwards(component: std::path::Component<'_>) -> bool {
    component == std::path::Component::ParentDir
}

/// Unmounts all that is mounted at `target`, and with it what is mounted below. Returns how many lay
/// upon each other there; 0 if none did or there is no such place.
pub fn unmount(target: &Path) -> Result<usize> {
    for done in 0..MOST_MOUNTS {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(done),
            Err(why) => {
                return Err(why).context(|| format!("unmount {}", target.display()));
            }
        }
    }
    Err(Error::internal(format!(
        "unmount {}: there is always one more",
        target.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: &str) -> Mount {
        Mount {
            kind: "bind".into(),
            source: source.into(),
            target: target.into(),
            options: vec!["rbind".into(), "ro".into()],
        }
    }

    #[test]
    fn stacked_mounts_all_go() {
        let target = std::env::temp_dir().join(format!("rootfs-{}", std::process::id()));
        mount(&[bind("/usr", ""), bind("/etc", "/")], &target).expect("mount");
        assert!(target.join("passwd").exists());
        assert_eq!(unmount(&target).expect("unmount"), 2);
        assert_eq!(unmount(&target).expect("again"), 0);
        fs::remove_dir(&target).expect("it is empty");
        assert_eq!(unmount(&target).expect("no such place"), 0);
    }

    #[test]
    fn a_mount_must_not_leave_the_root() {
        let target = std::env::temp_dir().join(format!("rootfs-up-{}", std::process::id()));
        let outcome = mount(&[bind("/usr", "/a/../../b")], &target);
        fs::remove_dir(&target).expect("it is empty");
        assert!(outcome.is_err());
    }
}
