//! `tmpcopyup`: a tmpfs that begins with what the directory below it holds.
//!
//! Every entry is opened once, without following it, and looked at and read through that descriptor:
//! whatever it is swapped for meanwhile, nothing else is opened.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, chownat,
    fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, mknodat, openat,
    readlinkat, symlinkat, utimensat,
};
use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, Result};

use super::reason::{Outcome, Reason};

/// How many directories may lie in each other: each takes some descriptors while it is copied.
const DEEPEST: usize = 200;

/// The longest list of names and the longest value of extended attributes there may be. Source: xattr(7).
const LONGEST: usize = 65_536;

/// Copies what is in the directory `from` to the directory `to`, which is empty.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Outcome<()> {
    let to = readable(to)?;
    entries(from, to.as_fd(), DEEPEST)
}

/// The same directory, to be read; the descriptors of mounts can't be.
fn readable(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, ".", flags, Mode::empty())
}

fn entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, deeper: usize) -> Outcome<()> {
    if deeper == 0 {
        return Err(Reason::new("its directories are too deep to be copied"));
    }
    let listed = readable(from)?;
    for entry in Dir::read_from(&listed)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, deeper)
                .map_err(|why| why.with(&format!("copying {}", name.to_string_lossy())))?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, deeper: usize) -> Outcome<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = match openat(from, name, flags, Mode::empty()) {
        // It has gone since it was listed.
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let status = fstat(&source)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    match kind {
        FileType::Directory => directory(&source, to, name, &status, deeper),
        FileType::RegularFile => Ok(file(&source, to, name, &status)?),
        FileType::Symlink => Ok(symlink(&source, to, name, &status)?),
        _ => Ok(node(to, name, kind, &status)?),
    }
}

fn directory(
    source: &OwnedFd,
    to: BorrowedFd<'_>,
    name: &CStr,
    status: &Stat,
    deeper: usize,
) -> Outcome<()> {
    mkdirat(to, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::empty())?;
    entries(source.as_fd(), target.as_fd(), deeper - 1)?;
    Ok(finish(
        readable(source.as_fd())?.as_fd(),
        target.as_fd(),
        status,
    )?)
}

fn file(source: &OwnedFd, to: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    let source = File::from(openat(CWD, path, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut &source, &mut &target)
        .map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
    finish(source.as_fd(), target.as_fd(), status)
}

fn symlink(source: &OwnedFd, to: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<()> {
    let text = readlinkat(source, c"", Vec::new())?;
    symlinkat(&text, to, name)?;
    own(to, name, status)?;
    utimensat(to, name, &times(status), AtFlags::SYMLINK_NOFOLLOW)
}

/// Devices, pipes and sockets.
fn node(to: BorrowedFd<'_>, name: &CStr, kind: FileType, status: &Stat) -> Result<()> {
    mknodat(to, name, kind, mode(status), status.st_rdev)?;
    own(to, name, status)?;
    utimensat(to, name, &times(status), AtFlags::SYMLINK_NOFOLLOW)
}

fn own(to: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<()> {
    let (user, group) = owner(status);
    chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
}

fn owner(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
    )
}

fn mode(status: &Stat) -> Mode {
    Mode::from_raw_mode(status.st_mode & 0o7777)
}

fn times(status: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}

/// Gives a copy the owner, mode, attributes and times of its original. The owner first: a new one takes
/// away set-user-ID bits and capabilities.
fn finish(source: BorrowedFd<'_>, target: BorrowedFd<'_>, status: &Stat) -> Result<()> {
    let (user, group) = owner(status);
    fchown(target, user, group)?;
    fchmod(target, mode(status))?;
    attributes(source, target)?;
    futimens(target, &times(status))
}

/// Those that a tmpfs can hold and we may set.
fn attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let mut list = Vec::with_capacity(LONGEST);
    match flistxattr(source, rustix::buffer::spare_capacity(&mut list)) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(_) => {}
        Err(why) => return Err(why),
    }
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = Vec::with_capacity(LONGEST);
        match fgetxattr(source, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {}
            Err(Errno::NODATA) => continue,
            Err(why) => return Err(why),
        }
        match fsetxattr(target, name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
