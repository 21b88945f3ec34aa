//! What is known of a file, and changing it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{Gid, Uid, fchownat, ftruncate};
use rustix::fs::{AtFlags as Flags, StatxFlags, Timespec, Timestamps};

use super::inodes::Key;
use super::{Passthrough, open_again, place};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{
    Attr, AttrOut, GETATTR_FH, GetattrIn, SetattrIn, Statx, StatxIn, StatxOut, SxTime, Wire, fattr,
};

/// What the kernel says of a file.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Which one it is.
    pub key: Key,
    /// What the guest is told.
    pub attr: Attr,
}

impl Status {
    /// Its type.
    pub fn kind(&self) -> libc::mode_t {
        self.attr.mode & libc::S_IFMT
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(file: BorrowedFd<'_>) -> Outcome<Self> {
        status(file)
    }
}

/// Asks the kernel.
pub fn status(file: BorrowedFd<'_>) -> Outcome<Status> {
    status_below(file, c"")
}

/// Asks the kernel for what has that name in a directory. No link is followed.
pub fn status_below(directory: BorrowedFd<'_>, name: &CStr) -> Outcome<Status> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    let found = ask(directory, name, mask)?;
    let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    // As the kernel packs it for its users since there are more than 255 of each.
    let rdev = libc::makedev(found.stx_rdev_major, found.stx_rdev_minor) as u32;
    Ok(Status {
        key: Key {
            mount: found.stx_mnt_id,
            device,
            inode: found.stx_ino,
        },
        attr: Attr {
            ino: found.stx_ino,
            size: found.stx_size,
            blocks: found.stx_blocks,
            atime: found.stx_atime.tv_sec.cast_unsigned(),
            mtime: found.stx_mtime.tv_sec.cast_unsigned(),
            ctime: found.stx_ctime.tv_sec.cast_unsigned(),
            atimensec: found.stx_atime.tv_nsec,
            mtimensec: found.stx_mtime.tv_nsec,
            ctimensec: found.stx_ctime.tv_nsec,
            mode: found.stx_mode.into(),
            nlink: found.stx_nlink,
            uid: found.stx_uid,
            gid: found.stx_gid,
            rdev,
            blksize: found.stx_blksize,
            flags: 0,
        },
    })
}

/// Asks the kernel for what is in the mask.
fn ask(file: BorrowedFd<'_>, name: &CStr, mask: libc::c_uint) -> Outcome<rustix::fs::Statx> {
    // Not the C library's function: to the standard library that is one which may be missing, and so it is
    // in what is linked statically and optimised as a whole. rustix makes the system call itself.
    let flags = Flags::EMPTY_PATH | Flags::NO_AUTOMOUNT | Flags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(file, name, flags, StatxFlags::from_bits_retain(mask))
        .map_err(|why| Errno::from_raw(why.raw_os_error()))
}

fn time(found: rustix::fs::StatxTimestamp) -> SxTime {
    SxTime {
        tv_sec: found.tv_sec.cast_unsigned(),
        tv_nsec: found.tv_nsec,
        reserved: 0,
    }
}

impl Passthrough {
    pub(super) fn getattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let GetattrIn {
            getattr_flags, fh, ..
        } = request.take()?;
        let nodeid = request.header.nodeid;
        let inode = self.inode(nodeid)?;
        let changes = inode.belongs.shown.changes;
        // A file that was renamed over on NFS may only be there by its handle.
        let found = match getattr_flags & GETATTR_FH {
            0 => status(inode.file.as_fd())?,
            _ => status(self.handle(fh)?.as_fd())?,
        };
        self.say_attributes(found, changes)
    }

    /// As `getattr`, and with it when the file came to be.
    pub(super) fn statx(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
        let StatxIn {
            getattr_flags, fh, ..
        } = request.take()?;
        let inode = self.inode(request.header.nodeid)?;
        let changes = inode.belongs.shown.changes;
        let found = match getattr_flags & GETATTR_FH {
            0 => ask(inode.file.as_fd(), c"", MASK)?,
            _ => ask(self.handle(fh)?.as_fd(), c"", MASK)?,
        };
        StatxOut {
            attr_valid: super::seconds(changes),
            stat: Statx {
                mask: found.stx_mask & MASK,
                blksize: found.stx_blksize,
                nlink: found.stx_nlink,
                uid: found.stx_uid,
                gid: found.stx_gid,
                mode: found.stx_mode,
                ino: found.stx_ino,
                size: found.stx_size,
                blocks: found.stx_blocks,
                atime: time(found.stx_atime),
                btime: time(found.stx_btime),
                ctime: time(found.stx_ctime),
                mtime: time(found.stx_mtime),
                rdev_major: found.stx_rdev_major,
                rdev_minor: found.stx_rdev_minor,
                ..Statx::default()
            },
            ..StatxOut::default()
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    fn say_attributes(&mut self, found: Status, changes: crate::tree::Changes) -> Outcome<Answer> {
        AttrOut {
            attr_valid: super::seconds(changes),
            attr: found.attr,
            ..AttrOut::default()
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn setattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let asked: SetattrIn = request.take()?;
        let has = |bits| asked.valid & bits != 0;
        let inode = self.inode(request.header.nodeid)?;
        let changes = inode.belongs.shown.changes;
        let (file, kind) = (inode.file.as_fd(), inode.kind);
        let handle = match has(fattr::FH) {
            true => Some(self.handle(asked.fh)?),
            false => None,
        };
        if has(fattr::UID | fattr::GID) {
            let id = |bit, id| match (has(bit), id) {
                // It means "leave it as it is".
                (true, u32::MAX) => Err(Errno::EINVAL),
                (true, id) => Ok(Some(id)),
                (false, _) => Ok(None),
            };
            let (uid, gid) = (id(fattr::UID, asked.uid)?, id(fattr::GID, asked.gid)?);
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            fchownat(file, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if has(fattr::MODE) {
            let mode = Mode::from_bits_truncate(asked.mode);
            // Whether it may set the group's bit, the guest's kernel has decided.
            self.credentials.clear_suid(false)?;
            match &handle {
                Some(handle) => fchmod(handle, mode)?,
                None => fchmodat(AT_FDCWD, &*place(file), mode, FchmodatFlags::FollowSymlink)?,
            }
        }
        if has(fattr::SIZE) {
            if kind != libc::S_IFREG {
                return Err(Errno::EINVAL);
            }
            let size = i64::try_from(asked.size).map_err(|_| Errno::EFBIG)?;
            self.credentials.clear_suid(has(fattr::KILL_SUIDGID))?;
            match &handle {
                Some(handle) => ftruncate(handle, size)?,
                None => ftruncate(open_again(file, libc::O_WRONLY)?, size)?,
            }
        }
        if has(fattr::ATIME | fattr::MTIME) {
            let time = |bit, now, seconds: u64, nanoseconds: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (has(bit), has(now)) {
                    (false, _) => libc::UTIME_OMIT,
                    (true, true) => libc::UTIME_NOW,
                    (true, false) => nanoseconds.into(),
                },
            };
            let times = Timestamps {
                last_access: time(fattr::ATIME, fattr::ATIME_NOW, asked.atime, asked.atimensec),
                last_modification: time(
                    fattr::MTIME,
                    fattr::MTIME_NOW,
                    asked.mtime,
                    asked.mtimensec,
                ),
            };
            set_times(file, &times)?;
        }
        let found = status(file)?;
        self.say_attributes(found, changes)
    }
}

fn set_times(file: impl AsFd, times: &Timestamps) -> Outcome<()> {
    let done = rustix::fs::utimensat(file, c"", times, Flags::EMPTY_PATH);
    done.map_err(|why| Errno::from_raw(why.raw_os_error()))
}
