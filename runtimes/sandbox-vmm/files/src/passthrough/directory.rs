//! Reading directories.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek64};

use super::Passthrough;
use super::inodes::Known;
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

/// What is told of a directory by one answer.
struct Listing {
    /// How long the answer may be, in bytes.
    room: usize,
    /// Where the next name is.
    position: u64,
    /// The directory, if the guest is to be told of the files, too.
    above: Option<Known>,
    /// Whether the guest knows the next file. It is taken for known if all before it were: who lists a
    /// directory again knows most of its files, who lists it first none.
    known: bool,
}

impl Listing {
    /// What is told beside each name, in bytes.
    fn beside_name(&self) -> usize {
        match self.above {
            Some(_) => EntryOut::SIZE,
            None => 0,
        }
    }

    /// How many bytes of what the kernel says of names there is room to tell of.
    fn names_in(&self, room: usize) -> usize {
        room * LEAST / (LEAST + self.beside_name())
    }
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
        let mut listing = Listing {
            room,
            position: offset,
            above: match plus {
                true => Some(self.inode(request.header.nodeid)?),
                false => None,
            },
            known: true,
        };
        let mut bytes = vec![0; listing.names_in(room).max(LONGEST)];
        let mut read = read_names(directory, &mut bytes)?;
        while read > 0 {
            if !self.say_names(bytes.get(..read).unwrap_or_default(), &mut listing)? {
                // What was read beyond is read again.
                return Ok(Answer::Said);
            }
            let left = listing.names_in(room.saturating_sub(self.said.len()));
            read = match bytes.get_mut(..left) {
                Some(bytes) if left >= LEAST => match read_names(directory, bytes) {
                    // The next name is longer than what there is room for.
                    Err(Errno::EINVAL) => 0,
                    read => read?,
                },
                _ => 0,
            };
        }
        if let Some(handle) = self.tables().handles.get_mut(fh) {
            handle.position = Some(listing.position);
        }
        Ok(Answer::Said)
    }

    /// Tells of the names that the kernel has said. `false` if there is no room for all of them.
    fn say_names(&mut self, mut names: &[u8], listing: &mut Listing) -> Outcome<bool> {
        while let Some(name) = next(&mut names)? {
            let needed = listing.beside_name() + padded(Dirent::SIZE + name.name.count_bytes());
            if self.said.len() + needed > listing.room {
                return match self.said.is_empty() {
                    true => Err(Errno::EINVAL),
                    false => Ok(false),
                };
            }
            listing.position = name.dirent.off;
            self.say_name(&name, listing);
        }
        Ok(true)
    }

    /// Tells of a name, and of its file if that is asked for.
    fn say_name(&mut self, name: &Name<'_>, listing: &mut Listing) {
        let mut dirent = name.dirent;
        if let Some(above) = &listing.above {
            let entry = match name.name.to_bytes() {
                b"." | b".." => EntryOut::default(),
                _ => self.entry_below(above, name.name, &mut listing.known),
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
    fn entry_below(&mut self, above: &Known, name: &CStr, known: &mut bool) -> EntryOut {
        // Trees are mounts, and one of them may hang.
        if above.names != Names::Files {
            return EntryOut::default();
        }
        if *known && let Some(entry) = self.known_entry(above, name) {
            return entry;
        }
        let entry = self.entry(above, name).unwrap_or_default();
        *known = false;
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
