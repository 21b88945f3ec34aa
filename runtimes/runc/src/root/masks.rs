//! Paths that the container may not see into, or not write to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat, makedev};
use rustix::io::Errno;
use trefoil_os::detached::{Change, Depth, Tree};

use super::filesystem::New;
use super::options::Options;
use super::path::{Confined, cleaned};
use super::reason::{Outcome, Reason};
use crate::setup::error::Failure;

/// Makes each path and all in the same mount read-only. What isn't there needs no protection.
pub(super) fn protect(root: &Confined, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        read_only(root, path)
            .map_err(|why| why.failing(format_args!("make {} read-only", path.display())))?;
    }
    Ok(())
}

fn read_only(root: &Confined, path: &Path) -> Outcome<()> {
    let Some(place) = open(root, path)? else {
        return Ok(());
    };
    let tree = Tree::copy_at(place.as_fd(), Path::new(""), Depth::All)?;
    tree.change(Change::adding(libc::MOUNT_ATTR_RDONLY), Depth::One)?;
    Ok(tree.attach_at(place.as_fd())?)
}

/// What is at a path, if something is.
fn open(root: &Confined, path: &Path) -> Outcome<Option<OwnedFd>> {
    match root.open(&cleaned(path)) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// Covers each path: a file with the container's null device, a directory with an empty one.
pub(super) fn hide(root: &Confined, paths: &[PathBuf], label: Option<&str>) -> Result<(), Failure> {
    let mut covers = Covers {
        root,
        label,
        null: None,
        empty: None,
    };
    for path in paths {
        covers
            .cover(path)
            .map_err(|why| why.failing(format_args!("mask {}", path.display())))?;
    }
    Ok(())
}

/// What paths are covered with, made at the first need.
struct Covers<'a> {
    root: &'a Confined,
    label: Option<&'a str>,
    null: Option<OwnedFd>,
    /// One filesystem for all directories; it is mounted already.
    empty: Option<Tree>,
}

impl Covers<'_> {
    fn cover(&mut self, path: &Path) -> Outcome<()> {
        let Some(place) = open(self.root, path)? else {
            return Ok(());
        };
        match super::path::kind_of(place.as_fd())? {
            FileType::Directory => self.cover_directory(place.as_fd()),
            _ => self.cover_file(place.as_fd()),
        }
    }

    fn cover_file(&mut self, place: BorrowedFd<'_>) -> Outcome<()> {
        let null = match &self.null {
            Some(null) => null,
            None => self.null.insert(null_of(self.root)?),
        };
        let tree = Tree::copy_at(null.as_fd(), Path::new(""), Depth::One)?;
        Ok(tree.attach_at(place)?)
    }

    fn cover_directory(&mut self, place: BorrowedFd<'_>) -> Outcome<()> {
        match &self.empty {
            Some(empty) => {
                let copy = Tree::copy_at(empty.as_fd(), Path::new(""), Depth::One)?;
                Ok(copy.attach_at(place)?)
            }
            // The first is no copy: before Linux 6.15 none is made of what is mounted nowhere.
            None => {
                let empty = self.empty.insert(empty(self.label)?);
                Ok(empty.attach_at(place)?)
            }
        }
    }
}

/// The container's own null device. The host's would do, too, but then one could tell from within what
/// is masked; and a container whose null device is something else is broken anyway, and refused by runc.
fn null_of(root: &Confined) -> Outcome<OwnedFd> {
    let null = root.open(Path::new("dev/null"))?;
    let status = fstat(&null)?;
    let is_device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    match is_device && status.st_rdev == makedev(1, 3) {
        true => Ok(null),
        false => Err(Reason::new("container's /dev/null is invalid")),
    }
}

/// A directory with nothing in it, and where nothing can come to be.
fn empty(label: Option<&str>) -> Outcome<Tree> {
    let options = Options {
        data: vec!["nr_blocks=1".to_owned(), "nr_inodes=1".to_owned()],
        ..Options::default()
    };
    let mut new = New::described("tmpfs", "tmpfs", &options, label);
    new.attributes |= libc::MOUNT_ATTR_RDONLY;
    new.make(None).or_else(|_| {
        // Ubuntu's kernels want an inode more.
        new.data[1] = "nr_inodes=2".to_owned();
        new.make(None)
    })
}
