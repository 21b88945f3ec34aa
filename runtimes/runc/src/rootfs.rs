//! A container's root filesystem: mounting what containerd's snapshotter prepared, and unmounting it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trefoil_core::{Context, Error, Mount, Result};

use crate::idmap;

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

/// Removes what an init has left at `target` that was still preparing its root when containerd had
/// unmounted it already: then it makes its mount points in the bare directory, and containerd can't remove
/// that. Only such things go: directories, empty files, links and devices, all of the directory's own
/// filesystem. A file that holds something is nobody's mount point and stays, with all above it. containerd
/// may move the directory away meanwhile.
pub fn remove_mount_points(target: &Path) -> Result<()> {
    let device = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => found.dev(),
        _ => return Ok(()),
    };
    match remove_empty(target, device) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && !target.exists() => Ok(()),
        outcome => outcome.context(|| format!("clear the directory {}", target.display())),
    }
}

fn remove_empty(directory: &Path, device: u64) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.dev() != device {
            return Err(std::io::Error::other(format!(
                "{} is mounted",
                path.display()
            )));
        }
        if found.is_dir() {
            remove_empty(&path, device)?;
            fs::remove_dir(&path)?;
        } else if found.is_file() && found.len() > 0 {
            return Err(std::io::Error::other(format!(
                "{} is not empty",
                path.display()
            )));
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trefoil_os::mountinfo;

    use super::*;

    #[test]
    fn mount_points_go_and_files_stay() {
        let root = std::env::temp_dir().join(format!("rootfs-points-{}", std::process::id()));
        for directory in ["dev/pts", "etc"] {
            fs::create_dir_all(root.join(directory)).expect("directory");
        }
        fs::write(root.join("etc/hosts"), "").expect("file");
        std::os::unix::fs::symlink("/proc/self/fd", root.join("dev/fd")).expect("link");
        remove_mount_points(&root).expect("all are mount points");
        assert_eq!(fs::read_dir(&root).expect("it stays").count(), 0);
        fs::write(root.join("data"), "of somebody").expect("file");
        let why = remove_mount_points(&root).expect_err("a file with content");
        assert!(why.to_string().contains("data is not empty"), "{why}");
        fs::remove_dir_all(&root).expect("remove");
        remove_mount_points(&root).expect("no such place");
    }

    #[test]
    fn a_root_that_is_moved_away_meanwhile_is_cleared() {
        let root = std::env::temp_dir().join(format!("rootfs-moved-{}", std::process::id()));
        let elsewhere = root.with_extension("elsewhere");
        for _ in 0..100 {
            for n in 0..50 {
                fs::create_dir_all(root.join(n.to_string())).expect("directory");
            }
            let mover = std::thread::spawn({
                let (root, elsewhere) = (root.clone(), elsewhere.clone());
                move || fs::rename(root, elsewhere)
            });
            let outcome = remove_mount_points(&root);
            mover.join().expect("join").expect("move");
            fs::remove_dir_all(&elsewhere).expect("remove");
            outcome.expect("cleared, or gone");
        }
    }

    #[test]
    fn what_is_mounted_below_is_not_entered() {
        let root = std::env::temp_dir().join(format!("rootfs-below-{}", std::process::id()));
        mount(&[bind("/proc", "")], &root.join("proc")).expect("mount");
        let why = remove_mount_points(&root).expect_err("a mount");
        mountinfo::unmount_all(&root.join("proc")).expect("unmount");
        remove_mount_points(&root).expect("unmounted");
        fs::remove_dir(&root).expect("it is empty");
        assert!(why.to_string().contains("is mounted"), "{why}");
    }

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
        assert_eq!(mountinfo::unmount_all(&target).expect("unmount"), 2);
        assert_eq!(mountinfo::unmount_all(&target).expect("again"), 0);
        fs::remove_dir(&target).expect("it is empty");
        assert_eq!(mountinfo::unmount_all(&target).expect("no such place"), 0);
    }

    #[test]
    fn a_mount_must_not_leave_the_root() {
        let target = std::env::temp_dir().join(format!("rootfs-up-{}", std::process::id()));
        let outcome = mount(&[bind("/usr", "/a/../../b")], &target);
        fs::remove_dir(&target).expect("it is empty");
        assert!(outcome.is_err());
    }
}
