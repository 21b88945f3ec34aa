//! Opening files, and their content.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl, openat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Whence, fdatasync, fsync, lseek64, syncfs};
use trefoil_virtio::Buffers;

use super::names::permissions;
use super::session::MOST_BYTES;
use super::trees::{Belongs, Names};
use super::{Passthrough, open_again};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{
    CopyFileRangeIn, CreateIn, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FSYNC_FDATASYNC,
    FallocateIn, FlushIn, FsyncIn, InHeader, LseekIn, LseekOut, OPEN_KILL_SUIDGID, OpenIn, OpenOut,
    OutHeader, ReadIn, ReleaseIn, StatfsOut, WRITE_CACHE, WRITE_KILL_SUIDGID, Wire, WriteIn,
    WriteOut,
};
use crate::message::Flush;
use crate::tree::Changes;

/// What of a guest's flags is passed on when a file is opened.
///
/// Not: to append, as the guest's kernel writes back its pages by any file it has open, at their
/// place (it says with each write whether it appends); to write through, as it asks for that by
/// itself; to go around the cache, as its buffers need not be as a disk wants them.
const PASSED: u32 = (libc::O_ACCMODE | libc::O_TRUNC | libc::O_NOATIME).cast_unsigned();

/// The most bytes that are copied in one go, since others wait.
const MOST_COPIED: u64 = 16 << 20;

impl Passthrough {
    pub(super) fn open(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let OpenIn { flags, open_flags } = request.take()?;
        self.check_room()?;
        let inode = self.inode(request.header.nodeid)?;
        // The others are opened in the guest: here they would wait, or be devices of the host's.
        if inode.kind != libc::S_IFREG {
            return Err(Errno::EINVAL);
        }
        let (file, belongs, device) = (inode.file, inode.belongs, inode.key.device);
        let clear = open_flags & OPEN_KILL_SUIDGID != 0;
        self.credentials.clear_suid(clear)?;
        let opened = open_again(file.as_fd(), (flags & PASSED).cast_signed())?;
        let opened = self.say_opened(opened, belongs, device, flags)?;
        opened.put(&mut self.said);
        Ok(Answer::Said)
    }

    fn say_opened(
        &mut self,
        file: OwnedFd,
        belongs: Belongs,
        device: u64,
        flags: u32,
    ) -> Outcome<OpenOut> {
        let mut open_flags = 0;
        let kind = self.kind(device, &file)?;
        if kind.made_up {
            // The guest's kernel would read only as much as the file says that there is: nothing.
            open_flags |= FOPEN_DIRECT_IO;
            // Some wait for what is to come, and others with them.
            let flags = OFlag::from_bits_retain((flags & PASSED).cast_signed());
            fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let is_read = flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned();
        // At close, a filesystem that isn't local tells what became of what was written.
        let is_quiet = kind.local && self.tables().flush == Flush::WhereLocked;
        if is_read || is_quiet {
            open_flags |= FOPEN_NOFLUSH;
        }
        if belongs.shown.changes == Changes::GuestOnly {
            open_flags |= FOPEN_KEEP_CACHE;
        }
        Ok(OpenOut {
            fh: self.keep(file, belongs.tree, kind, None)?,
            open_flags,
            padding: 0,
        })
    }

    pub(super) fn create(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let CreateIn {
            flags,
            mode,
            umask,
            open_flags,
        } = request.take()?;
        let name = request.name()?;
        self.check_room()?;
        self.create_as(request, umask)?;
        let inode = self.inode(request.header.nodeid)?;
        let (belongs, device) = (inode.belongs, inode.key.device);
        let how = OFlag::from_bits_retain((flags & PASSED).cast_signed())
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let (entry, opened) = match openat(&inode.file, name, how, permissions(mode)) {
            Ok(opened) => {
                let file = open_again(opened.as_fd(), libc::O_PATH)?;
                (self.told(&inode, name, file)?, opened)
            }
            // It was not there when the guest looked.
            Err(Errno::EEXIST) if flags & libc::O_EXCL.cast_unsigned() == 0 => {
                let entry = self.entry(&inode, name)?;
                let opened = self.open_existing(entry.nodeid, flags, open_flags);
                let opened = opened.inspect_err(|_| self.forget_one(entry.nodeid, 1))?;
                (entry, opened)
            }
            Err(why) => return Err(why),
        };
        entry.put(&mut self.said);
        self.say_opened(opened, belongs, device, flags)?
            .put(&mut self.said);
        Ok(Answer::Said)
    }

    fn open_existing(&mut self, nodeid: u64, flags: u32, open_flags: u32) -> Outcome<OwnedFd> {
        let inode = self.inode(nodeid)?;
        if inode.kind != libc::S_IFREG {
            return Err(Errno::EEXIST);
        }
        let clear = open_flags & OPEN_KILL_SUIDGID != 0;
        self.credentials.clear_suid(clear)?;
        open_again(inode.file.as_fd(), (flags & PASSED).cast_signed())
    }

    /// A file without a name; the guest may give it one.
    pub(super) fn tmpfile(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let CreateIn {
            flags, mode, umask, ..
        } = request.take()?;
        self.check_room()?;
        self.create_as(request, umask)?;
        let inode = self.inode(request.header.nodeid)?;
        let (belongs, device) = (inode.belongs, inode.key.device);
        let exclusive = flags & libc::O_EXCL.cast_unsigned();
        let how = OFlag::from_bits_retain((flags & PASSED | exclusive).cast_signed())
            | OFlag::O_TMPFILE
            | OFlag::O_CLOEXEC;
        let opened = openat(&inode.file, c".", how, permissions(mode))?;
        let file = open_again(opened.as_fd(), libc::O_PATH)?;
        self.told(&inode, c"", file)?.put(&mut self.said);
        self.say_opened(opened, belongs, device, flags)?
            .put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn read(&mut self, request: &mut Request<'_>, to: &Buffers) -> Outcome<Answer> {
        let ReadIn {
            fh, offset, size, ..
        } = request.take()?;
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        let handle = self.handle(fh)?;
        if handle.kind.apart() {
            return self.read_apart(handle.as_fd(), offset, size);
        }
        let mut body = to.clone();
        body.skip(OutHeader::SIZE);
        body.truncate(size);
        let count = transfer(libc::preadv2, handle.as_fd(), body.iovecs(), offset, 0)?;
        Ok(Answer::Content(count))
    }

    /// Reads into a buffer of ours.
    fn read_apart(&mut self, file: BorrowedFd<'_>, offset: u64, size: usize) -> Outcome<Answer> {
        self.said.resize(size.min(MOST_BYTES as usize), 0);
        let mut said = std::mem::take(&mut self.said);
        let count = transfer_apart(libc::preadv2, file, &mut said, offset, 0);
        self.said = said;
        let count = count?;
        self.said.truncate(count);
        Ok(Answer::Said)
    }

    pub(super) fn write(&mut self, request: &mut Request<'_>, from: &Buffers) -> Outcome<Answer> {
        let WriteIn {
            fh,
            offset,
            size,
            write_flags,
            flags,
            ..
        } = request.take()?;
        let mut body = from.clone();
        body.skip(InHeader::SIZE + WriteIn::SIZE);
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        if body.len() < size {
            return Err(Errno::EINVAL);
        }
        body.truncate(size);
        let clear = write_flags & WRITE_KILL_SUIDGID != 0;
        self.credentials.clear_suid(clear)?;
        let appends = flags & libc::O_APPEND.cast_unsigned() != 0 && write_flags & WRITE_CACHE == 0;
        let handle = self.handle(fh)?;
        let kind = handle.kind;
        // A file that is made up has no end.
        let how = match appends && !kind.made_up {
            true => libc::RWF_APPEND,
            false => 0,
        };
        let count = match kind.apart() {
            true => {
                let mut bytes = vec![0; size.min(MOST_BYTES as usize)];
                body.read(&mut bytes).map_err(|_| Errno::EINVAL)?;
                transfer_apart(libc::pwritev2, handle.as_fd(), &mut bytes, offset, how)?
            }
            false => {
                let file = handle.as_fd();
                transfer(libc::pwritev2, file, body.iovecs(), offset, how)?
            }
        };
        let size = u32::try_from(count).map_err(|_| Errno::EIO)?;
        WriteOut { size, padding: 0 }.put(&mut self.said);
        Ok(Answer::Said)
    }

    /// One of perhaps several who had the file open has closed it: what was written is told of, as far
    /// as the filesystem tells by then.
    pub(super) fn flush(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let FlushIn { fh, lock_owner, .. } = request.take()?;
        self.drop_owner(request.header.nodeid, lock_owner);
        let copy = self.handle(fh)?.file.try_clone();
        let copy = copy.map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(libc::EIO)))?;
        nix::unistd::close(copy)?;
        Ok(Answer::Said)
    }

    pub(super) fn release(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let ReleaseIn { fh, .. } = request.take()?;
        let (was_there, gone) = self.tables().release(request.header.nodeid, fh);
        // The tables are let go of by now.
        drop(gone);
        match was_there {
            true => Ok(Answer::Said),
            false => Err(Errno::EBADF),
        }
    }

    pub(super) fn fsync(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let FsyncIn {
            fh, fsync_flags, ..
        } = request.take()?;
        let file = self.handle(fh)?;
        match fsync_flags & FSYNC_FDATASYNC {
            0 => fsync(file.as_fd())?,
            _ => fdatasync(file.as_fd())?,
        }
        Ok(Answer::Said)
    }

    pub(super) fn fallocate(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let FallocateIn {
            fh,
            offset,
            length,
            mode,
            ..
        } = request.take()?;
        let known = FallocateFlags::FALLOC_FL_KEEP_SIZE
            | FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let mode = FallocateFlags::from_bits(mode.cast_signed())
            .filter(|mode| known.contains(*mode))
            .ok_or(Errno::EOPNOTSUPP)?;
        // Whose change it is isn't said. It takes the bits from everybody's file, as the kernel does
        // where it must choose.
        self.credentials.clear_suid(true)?;
        fallocate(self.handle(fh)?, mode, signed(offset)?, signed(length)?)?;
        Ok(Answer::Said)
    }

    /// Only where there is data and where not: of a position, the guest's kernel knows all else.
    pub(super) fn lseek(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let LseekIn {
            fh, offset, whence, ..
        } = request.take()?;
        let whence = match whence.cast_signed() {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Errno::EINVAL),
        };
        let found = lseek64(self.handle(fh)?, signed(offset)?, whence)?;
        let offset = found.cast_unsigned();
        LseekOut { offset }.put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn copy_file_range(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let asked: CopyFileRangeIn = request.take()?;
        if asked.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let length = usize::try_from(asked.len.min(MOST_COPIED)).map_err(|_| Errno::EINVAL)?;
        // What the kernel takes are signed ones.
        signed(asked.off_in)?;
        signed(asked.off_out)?;
        let (mut off_in, mut off_out) = (asked.off_in, asked.off_out);
        self.credentials.clear_suid(true)?;
        let (from, to) = (self.handle(asked.fh_in)?, self.handle(asked.fh_out)?);
        let offsets = (Some(&mut off_in), Some(&mut off_out));
        // Not libc's function, for the reason that there is at statx.
        let count =
            rustix::fs::copy_file_range(from.as_fd(), offsets.0, to.as_fd(), offsets.1, length)
                .map_err(|why| Errno::from_raw(why.raw_os_error()))?;
        let size = u32::try_from(count).map_err(|_| Errno::EIO)?;
        WriteOut { size, padding: 0 }.put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn statfs(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let found = fstatfs(self.inode(request.header.nodeid)?.file)?;
        let narrow = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        StatfsOut {
            blocks: found.blocks(),
            bfree: found.blocks_free(),
            bavail: found.blocks_available(),
            files: found.files(),
            ffree: found.files_free(),
            bsize: narrow(found.block_size()),
            namelen: narrow(found.maximum_name_length()),
            frsize: narrow(found.block_size()),
            ..StatfsOut::default()
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn syncfs(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let inode = self.inode(request.header.nodeid)?;
        // What is at the top holds nothing that could be written to a disk.
        if inode.names == Names::Files {
            if !matches!(inode.kind, libc::S_IFDIR | libc::S_IFREG) {
                return Err(Errno::EINVAL);
            }
            syncfs(open_again(inode.file.as_fd(), libc::O_RDONLY)?)?;
        }
        Ok(Answer::Said)
    }
}

/// Moves bytes between a file and memory of ours.
fn transfer_apart(
    call: Transfer,
    file: BorrowedFd<'_>,
    bytes: &mut [u8],
    offset: u64,
    flags: libc::c_int,
) -> Outcome<usize> {
    /// The file's own position, of `preadv2` and `pwritev2`.
    const ITS_OWN: i64 = -1;
    let iovecs = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    match transfer_at(call, file, &iovecs, signed(offset)?, flags) {
        // It has none but the next byte.
        Err(Errno::ESPIPE) => transfer_at(call, file, &iovecs, ITS_OWN, flags),
        outcome => outcome,
    }
}

fn signed(number: u64) -> Outcome<i64> {
    i64::try_from(number).map_err(|_| Errno::EINVAL)
}

/// `preadv2` or `pwritev2`.
type Transfer = unsafe extern "C" fn(
    libc::c_int,
    *const libc::iovec,
    libc::c_int,
    libc::off_t,
    libc::c_int,
) -> libc::ssize_t;

/// Moves bytes between a file and memory: the guest's, or ours that nobody else uses.
fn transfer(
    call: Transfer,
    file: BorrowedFd<'_>,
    iovecs: &[libc::iovec],
    offset: u64,
    flags: libc::c_int,
) -> Outcome<usize> {
    transfer_at(call, file, iovecs, signed(offset)?, flags)
}

fn transfer_at(
    call: Transfer,
    file: BorrowedFd<'_>,
    iovecs: &[libc::iovec],
    offset: i64,
    flags: libc::c_int,
) -> Outcome<usize> {
    let count = libc::c_int::try_from(iovecs.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the buffers are ours, or lie in the guest's memory, which stays mapped as long as they
    // live; it is shared with the guest, so nobody here relies on what is in it.
    let moved = unsafe { call(file.as_raw_fd(), iovecs.as_ptr(), count, offset, flags) };
    usize::try_from(Errno::result(moved)?).map_err(|_| Errno::EIO)
}
