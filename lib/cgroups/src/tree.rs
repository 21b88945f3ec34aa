//! Going through a cgroup and all cgroups below it.
//!
//! A container that may make cgroups decides how deep they nest and what they are called. So nothing
//! here holds a path or a descriptor for each level: we go down by name and up by `..`, with two
//! descriptors, however deep it is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};

use super::error::{Doing, Result, is_absent, not_written};

/// A cgroup as the walk finds it.
pub(super) struct Visited<'a> {
    above: BorrowedFd<'a>,
    name: &'a OsString,
    /// The cgroup that the walk began at, for messages.
    root: &'a Path,
    /// Whether it is that one itself.
    pub is_root: bool,
}

impl Visited<'_> {
    /// Reads a file; `None` if it isn't there (any more).
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        let mut text = String::new();
        let read = self
            .open(file, OFlags::RDONLY)
            .and_then(|mut file| file.read_to_string(&mut text));
        match read {
            Ok(_) => Ok(Some(text)),
            Err(why) if is_absent(&why) => Ok(None),
            Err(why) => Err(why).doing("read", &self.root.join(file)),
        }
    }

    /// Writes to a file; `false` if it isn't there (any more).
    pub fn write(&self, file: &str, value: &str) -> Result<bool> {
        let written = self
            .open(file, OFlags::WRONLY)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        match written {
            Ok(()) => Ok(true),
            Err(why) if is_absent(&why) => Ok(false),
            Err(why) => Err(not_written(value, &self.root.join(file), why)),
        }
    }

    /// Removes the cgroup; `false` if it is busy: by processes, by those that still die, or by cgroups
    /// that were made meanwhile.
    pub fn remove(&self) -> Result<bool> {
        match unlinkat(self.above, self.name, AtFlags::REMOVEDIR).map_err(io::Error::from) {
            Ok(()) => Ok(true),
            Err(why) if is_absent(&why) => Ok(true),
            Err(why) if is_busy(&why) => Ok(false),
            Err(why) => Err(why).doing("remove", self.root),
        }
    }

    fn open(&self, file: &str, flags: OFlags) -> io::Result<File> {
        let mut path = self.name.clone();
        path.push("/");
        path.push(file);
        let fd = openat(
            self.above,
            &path,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        Ok(File::from(fd))
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
}

/// Visits `root` and all cgroups below it, children before their parents. What vanishes meanwhile is
/// left out, what comes meanwhile may be. Goes on after a visit that fails.
///
/// # Errors
/// The first failure of a visit, or that a directory can't be listed.
pub(super) fn walk(root: &Path, mut visit: impl FnMut(&Visited<'_>) -> Result<()>) -> Result<()> {
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Ok(());
    };
    let mut above = match directory(CWD, parent) {
        Ok(fd) => fd,
        Err(why) if is_absent(&why) => return Ok(()),
        Err(why) => return Err(why).doing("open", parent),
    };
    let mut outcome = Ok(());
    // The names still to be done at each level; the last of each is the one we are in.
    let mut levels = vec![vec![name.to_owned()]];
    loop {
        let Some(level) = levels.last_mut() else {
            return outcome;
        };
        if let Some(name) = level.last() {
            match children(above.as_fd(), name).doing("list", root)? {
                Some((inside, names)) if !names.is_empty() => {
                    levels.push(names);
                    above = inside;
                    continue;
                }
                Some(_) => {}
                None => {
                    level.pop();
                    continue;
                }
            }
        } else {
            levels.pop();
            if levels.is_empty() {
                return outcome;
            }
            above = directory(&above, "..").doing("open the parent of a directory in", root)?;
        }
        let is_root = levels.len() == 1;
        if let Some(name) = levels.last_mut().and_then(Vec::pop) {
            let place = Visited {
                above: above.as_fd(),
                name: &name,
                root,
                is_root,
            };
            outcome = outcome.and(visit(&place));
        }
    }
}

fn directory(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// Opens a directory and lists those in it; `None` if it is gone.
fn children(
    above: BorrowedFd<'_>,
    name: &OsString,
) -> io::Result<Option<(OwnedFd, Vec<OsString>)>> {
    let list = || -> io::Result<_> {
        let inside = directory(above, name)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&inside)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok((inside, names))
    };
    match list() {
        Ok(listed) => Ok(Some(listed)),
        Err(why) if is_absent(&why) => Ok(None),
        Err(why) => Err(why),
    }
}
