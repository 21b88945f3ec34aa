//! Where a directory or a file is on its filesystem: by that it is told whether two trees have files in
//! common.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use trefoil_core::{Context, Result};
use trefoil_os::mountinfo::{self, MountInfo};

use crate::passthrough::Status;

/// A directory with all below it, or one file, by its place on its filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The filesystem's device number, as stat(2) tells it.
    pub device: u64,
    /// The number of the directory or the file.
    inode: u64,
    /// The path from the filesystem's root.
    path: PathBuf,
}

impl Extent {
    /// Of what `file` is a descriptor of, in the mount namespace of the calling thread. `None` where the
    /// place does not tell which files are there, or as whose: with other mounts below it (if those are
    /// shared, too), with owners that are mapped to others, or if it has been removed.
    pub fn of(file: BorrowedFd<'_>, submounts: bool) -> Result<Option<Self>> {
        let doing = || "find out where a volume is";
        let status = Status::of(file).context(doing)?;
        let table = std::fs::read("/proc/thread-self/mountinfo").context(doing)?;
        let shown = std::fs::read_link(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
            .context(doing)?;
        let mounts: Vec<_> = mountinfo::parse(&table).collect();
        let path = path(&mounts, status.key.mount, &shown, submounts);
        Ok(path.map(|path| Self {
            device: status.key.device,
            inode: status.key.inode,
            path,
        }))
    }

    /// Whether it has files in common with another.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.device == other.device
            && (self.path.starts_with(&other.path) || other.path.starts_with(&self.path))
    }

    /// Some directory.
    #[cfg(test)]
    pub fn at(device: u64, path: &str) -> Self {
        Self {
            device,
            inode: 1,
            path: path.into(),
        }
    }

    /// How many directories of the filesystem are above it.
    pub fn depth(&self) -> u16 {
        u16::try_from(self.path.components().count()).unwrap_or(u16::MAX)
    }
}

/// The path on its filesystem of what is `shown` there by the mount of that number.
fn path(mounts: &[MountInfo], number: u64, shown: &Path, submounts: bool) -> Option<PathBuf> {
    let mount = mounts.iter().find(|mount| mount.id == number)?;
    let below = shown.strip_prefix(&mount.point).ok()?;
    if mount.options.iter().any(|option| option == "idmapped") {
        return None;
    }
    let covers = |other: &MountInfo| other.point != shown && other.point.starts_with(shown);
    if submounts && mounts.iter().any(covers) {
        return None;
    }
    let path = match below.as_os_str().is_empty() {
        true => mount.root.clone(),
        false => mount.root.join(below),
    };
    let text = path.as_os_str().as_encoded_bytes();
    // The kernel says so of what has been removed.
    let removed = text.ends_with(b"//deleted") || text.ends_with(b" (deleted)");
    (!removed).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::tree::open_source;

    const TABLE: &str = "\
        22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        23 22 8:2 /data /srv rw - ext4 /dev/sda2 rw\n\
        24 22 8:2 /data/a/b /mnt/part rw - ext4 /dev/sda2 rw\n\
        25 22 8:2 /data/m /mnt/mapped rw,idmapped - ext4 /dev/sda2 rw\n\
        26 23 0:9 / /srv/x/y rw - tmpfs tmpfs rw\n\
        27 22 8:2 /old//deleted /mnt/gone rw - ext4 /dev/sda2 rw\n";

    fn found(number: u64, shown: &str, submounts: bool) -> Option<String> {
        let mounts: Vec<_> = mountinfo::parse(TABLE.as_bytes()).collect();
        let path = path(&mounts, number, Path::new(shown), submounts);
        path.map(|path| path.display().to_string())
    }

    #[test]
    fn a_path_is_that_on_the_filesystem() {
        for (number, shown, path) in [
            (22, "/var/lib", Some("/var/lib")),
            (23, "/srv", Some("/data")),
            (23, "/srv/a", Some("/data/a")),
            (24, "/mnt/part/c", Some("/data/a/b/c")),
            // It has a mapping, is gone, or its mount can't be seen.
            (25, "/mnt/mapped", None),
            (27, "/mnt/gone", None),
            (23, "/srv/a (deleted)", None),
            (99, "/srv", None),
            (24, "/srv", None),
        ] {
            assert_eq!(found(number, shown, false).as_deref(), path, "{shown}");
        }
    }

    #[test]
    fn one_with_other_mounts_below_is_apart() {
        assert_eq!(found(22, "/", true), None);
        assert_eq!(found(23, "/srv/x", true), None);
        assert_eq!(found(23, "/srv/x", false).as_deref(), Some("/data/x"));
        assert_eq!(found(23, "/srv/xx", true).as_deref(), Some("/data/xx"));
        assert_eq!(found(26, "/srv/x/y", true).as_deref(), Some("/"));
    }

    #[test]
    fn those_overlap_that_one_is_in_the_other() {
        let extent = |device, path: &str| Extent {
            device,
            inode: 1,
            path: path.into(),
        };
        let one = extent(1, "/a/b");
        for (other, overlaps) in [
            (extent(1, "/a/b"), true),
            (extent(1, "/a"), true),
            (extent(1, "/"), true),
            (extent(1, "/a/b/c/d"), true),
            (extent(1, "/a/bc"), false),
            (extent(1, "/b"), false),
            (extent(2, "/a/b"), false),
        ] {
            assert_eq!(one.overlaps(&other), overlaps, "{other:?}");
            assert_eq!(other.overlaps(&one), overlaps, "{other:?}");
        }
    }

    #[test]
    fn what_is_here_is_found() {
        let directory = tempfile::tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("sub")).expect("sub");
        let of = |path: &Path| {
            let file = open_source(path, false).expect("open");
            Extent::of(file.as_fd(), true)
                .expect("look")
                .expect("place")
        };
        let (whole, part) = (of(directory.path()), of(&directory.path().join("sub")));
        assert!(whole.overlaps(&part));
        assert_eq!(whole.depth() + 1, part.depth());
        assert_ne!(whole, part);
    }
}
