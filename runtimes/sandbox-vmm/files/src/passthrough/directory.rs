//! Reading directories.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek64};

use super::Passthrough;
use super::kinds::Kind;
use super::trees::Names;
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{
    Dirent, EntryOut, FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, OpenOut, ReadIn, Wire,
};
use crate::tree::Changes;

/// The most bytes that are read of a directory, and answered with, in one go.
const MOST: usize = 64 << 10;
/// What a name takes of what the kernel says, at least: a name of one byte.
const LEAST: usize = 24;
/// The longest: room for one is needed to learn anything.
const LONGEST: usize = 280;

/// A name in a directory.
struct Name<'a> {
    dirent: Dirent,
    name: &'a CStr,
}

impl Passthrough {
    pub(super) fn opendir(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        self.check_room()?;
        let inode = self.inode(request.header.nodeid)?;
        let belongs = inode.belongs;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(inode.file, c".", flags, Mode::empty())?;
        let open_flags = match belongs.shown.changes {
            Changes::GuestOnly => FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE,
            Changes::Anybody => 0,
        };
        let fh = self.keep(opened, belongs.tree, Kind::PLAIN, Some(0))?;
        OpenOut {
            fh,
            open_flags,
            padding: 0,
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn readdir(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        self.list(request, false)
    }

    pub(super) fn readdirplus(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        self.list(request, true)
    }

    fn list(&mut self, request: &mut Request<'_>, plus: bool) -> Outcome<Answer> {
        let ReadIn {
            fh, offset, size, ..
        } = request.take()?;
        let room = usize::try_from(size).map_err(|_| Errno::EINVAL)?.min(MOST);
        let (at, directory) = {
            let mut tables = self.tables();
            let handle = tables.handles.get_mut(fh).ok_or(Errno::EBADF)?;
            (handle.position.take(), tables.opened(fh)?)
        };
        let directory = directory.as_fd();
        if at != Some(offset) {
            lseek64(directory, offset.cast_signed(), Whence::SeekSet)?;
        }
        // About as many names as there is room to tell of.
        let ratio = match plus {
            true => (LEAST + EntryOut::SIZE).div_ceil(LEAST),
            false => 1,
        };
        let mut bytes = vec![0; (room / ratio).max(LONGEST)];
        let length = read_names(directory, &mut bytes)?;
        let mut left = bytes.get(..length).unwrap_or_default();
        let mut position = offset;
        while let Some(name) = next(&mut left)? {
            let needed = match plus {
                true => EntryOut::SIZE,
                false => 0,
            } + padded(Dirent::SIZE + name.name.count_bytes());
            if self.said.len() + needed > room {
                // Not even the first one.
                if position == offset {
                    return Err(Errno::EINVAL);
                }
                // What was read beyond is read again.
                return Ok(Answer::Said);
            }
            position = name.dirent.off;
            self.say_name(request.header.nodeid, &name, plus);
        }
        if let Some(handle) = self.tables().handles.get_mut(fh) {
            handle.position = Some(position);
        }
        Ok(Answer::Said)
    }

    fn say_name(&mut self, directory: u64, name: &Name<'_>, plus: bool) {
        let mut dirent = name.dirent;
        if plus {
            let entry = match name.name.to_bytes() {
                b"." | b".." => EntryOut::default(),
                _ => self.entry_below(directory, name.name),
            };
            if entry.nodeid != 0 {
                dirent.ino = entry.attr.ino;
            }
            entry.put(&mut self.said);
        }
        dirent.put(&mut self.said);
        self.said.extend(name.name.to_bytes());
        self.said.resize(padded(self.said.len()), 0);
    }

    /// What the guest is told of a file beside its name; nothing, if it is to look it up: where
    /// another mount begins, and where it is not there any more.
    fn entry_below(&mut self, directory: u64, name: &CStr) -> EntryOut {
        // Trees are mounts, and one of them may hang.
        let names = self.inode(directory).map(|inode| inode.names);
        if names != Ok(Names::Files) {
            return EntryOut::default();
        }
        let entry = self.entry(directory, name).unwrap_or_default();
        if entry.attr.flags != 0 {
            self.forget_one(entry.nodeid, 1);
            return EntryOut::default();
        }
        entry
    }
}

/// Rounded up to what the next name is aligned to.
fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// Reads what comes next in a directory, as the kernel writes it.
fn read_names(directory: BorrowedFd<'_>, bytes: &mut [u8]) -> Outcome<usize> {
    // SAFETY: the kernel writes to the bytes, at most as many as there are.
    let length = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            bytes.as_mut_ptr(),
            bytes.len(),
        )
    };
    usize::try_from(Errno::result(length)?).map_err(|_| Errno::EIO)
}

/// Takes a `struct linux_dirent64` off the front.
fn next<'a>(left: &mut &'a [u8]) -> Outcome<Option<Name<'a>>> {
    if left.is_empty() {
        return Ok(None);
    }
    let read = |bytes: &mut &'a [u8]| -> Option<(Name<'a>, usize)> {
        let (ino, off) = (u64::take(bytes)?, u64::take(bytes)?);
        let length = usize::from(u16::take(bytes)?);
        let (kind, text) = bytes.split_first()?;
        let name = CStr::from_bytes_until_nul(text).ok()?;
        let dirent = Dirent {
            ino,
            off,
            namelen: u32::try_from(name.count_bytes()).ok()?,
            kind: u32::from(*kind),
        };
        Some((Name { dirent, name }, length))
    };
    let (name, length) = read(&mut &**left).ok_or(Errno::EIO)?;
    *left = left.get(length..).ok_or(Errno::EIO)?;
    Ok(Some(name))
}
