//! Doing what the guest asks: its requests become system calls on the files of the pod's trees.
//!
//! The server's root directory holds the trees, each a mount. A name of one file in a directory is
//! all that a guest can say; paths are walked by its own kernel, a step at a time. So nothing leads
//! out of the trees but a mount, and those are the parent's: links are not followed, by flag and by
//! mount option; `..` is no name.
//!
//! Each file that a guest knows is held open, without access to its content (`O_PATH`). That keeps
//! it the same file, whatever is renamed, and takes no right that the jail doesn't have: by file
//! handles, the alternative, files could be opened that are in no tree. Where a call needs the file
//! otherwise, it is opened again by its entry in the working directory, which is the process's own
//! `/proc/self/fd`.

mod asked;
mod attributes;
mod content;
mod credentials;
mod directory;
mod extended;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod inodes;
mod kinds;
mod locks;
mod lookup;
mod names;
mod overlay;
mod session;
mod slots;
mod tables;
mod trees;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use trefoil_virtio::Buffers;

use crate::fuse::Outcome;
use crate::fuse::answer::{self, Answer};
use crate::fuse::request::Request;
use crate::fuse::wire::{InHeader, InterruptIn, Opcode, ReleaseIn};
use crate::tree::{Changes, Shown};
pub use asked::{Asked, Domain};
pub use attributes::Status;
use credentials::Credentials;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
use inodes::{Inode, Known};
use kinds::Kind;
pub use tables::Files;
use tables::{Epoch, Handle, Opened, Tables};

/// How many bytes a buffer may keep between requests.
const MOST_KEPT: usize = 128 << 10;

/// Does requests, on one thread.
#[derive(Debug)]
pub struct Passthrough {
    files: Files,
    credentials: Credentials,
    /// When the request that is being done was begun.
    epoch: Epoch,
    /// The answer that is being made.
    said: Vec<u8>,
    /// The request that is being done: its header, and all of it.
    header: InHeader,
    room: Vec<u8>,
}

impl Passthrough {
    /// Shares what is in the directory `root`, which belongs to nobody else: the server's. Of files, as many are
    /// held as given.
    ///
    /// The calling thread's working directory is its `/proc/self/fd`.
    pub fn new(root: OwnedFd, most: usize) -> Outcome<Self> {
        Ok(Self::of(Files::new(root, most)?))
    }

    /// Does requests on the calling thread, which has its own umask and working directory: the
    /// process's `/proc/self/fd`.
    pub fn of(files: Files) -> Self {
        Self {
            files,
            credentials: Credentials::new(),
            epoch: Epoch::default(),
            said: Vec::new(),
            header: InHeader::default(),
            room: Vec::new(),
        }
    }

    /// What all threads share.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// A name in the root, or in a directory of the root that stands for a filesystem
    /// (`filesystem/name`), is a tree from now on.
    pub fn add(&mut self, name: &str, shown: Shown) {
        self.files.add(name, shown);
    }

    /// A name is no tree any more. All of its files are closed.
    pub fn remove(&mut self, name: &str) {
        drop(self.files.remove(name));
    }

    /// Does what a request asks for, and answers it. Says how long the answer is.
    pub fn serve(&mut self, request: &Buffers, answer: &Buffers) -> u32 {
        if self.look(request).is_none() {
            return 0;
        }
        let outcome = self.execute(request, answer);
        self.answer(outcome, answer)
    }

    /// Reads the next request, and says what it is about. `None` if it makes no sense, so that there
    /// is nobody who could be answered.
    pub fn look(&mut self, request: &Buffers) -> Option<Asked> {
        let read = Request::copy(request, &mut self.room)?;
        self.header = read.header;
        let tables = self.files.locked();
        self.epoch = tables.epoch();
        Some(asked::about(read, &tables))
    }

    /// Does what the request asks for that was read last. Unless [`Asked::early`] says otherwise, nothing in
    /// here touches the guest's memory once a call is made that may wait.
    pub fn execute(&mut self, request: &Buffers, answer: &Buffers) -> Outcome<Answer> {
        self.said.clear();
        // Few answers are long.
        self.said.shrink_to(MOST_KEPT);
        let room = std::mem::take(&mut self.room);
        let outcome = Request::again(self.header, &room)
            .ok_or(Errno::EINVAL)
            .and_then(|mut asked| self.dispatch(&mut asked, request, answer));
        self.room = room;
        outcome.map_err(|why| self.explain(why, self.header.nodeid))
    }

    /// What a failure means to the guest. One that is only because a file was come to by a tree that
    /// can't be written, where another can, is not final: whoever looks it up again may find it by the
    /// other. Linux does so, once, if a file is stale.
    fn explain(&self, why: Errno, nodeid: u64) -> Errno {
        if why != Errno::EROFS {
            return why;
        }
        let tables = self.tables();
        match tables.inodes.get(nodeid).and_then(Inode::belongs) {
            Ok(by)
                if by.filesystem != 0
                    && by.shown.read_only
                    && tables.trees.any_writable(by.filesystem) =>
            {
                Errno::ESTALE
            }
            _ => why,
        }
    }

    /// Answers the request that was done last. Says how long the answer is.
    pub fn answer(&self, outcome: Outcome<Answer>, answer: &Buffers) -> u32 {
        answer::write(self.header.unique, outcome, &self.said, answer)
    }

    /// Answers the request that was read last with nothing but that it is done.
    pub fn answer_empty(&self, answer: &Buffers) -> u32 {
        answer::write(self.header.unique, Ok(Answer::Said), &[], answer)
    }

    /// Takes the file away whose release was read last, unclosed.
    pub fn release_later(&self) -> Vec<Arc<OwnedFd>> {
        let asked = Request::again(self.header, &self.room);
        match asked.and_then(|mut asked| asked.take().ok()) {
            Some(ReleaseIn { fh, .. }) => self.tables().release(self.header.nodeid, fh).1,
            None => Vec::new(),
        }
    }

    /// Which request is interrupted by the one that was read last.
    pub fn interrupted(&self) -> Option<u64> {
        let mut asked = Request::again(self.header, &self.room)?;
        asked.take().ok().map(|InterruptIn { unique }| unique)
    }

    fn dispatch(
        &mut self,
        request: &mut Request<'_>,
        from: &Buffers,
        to: &Buffers,
    ) -> Outcome<Answer> {
        let opcode = Opcode::new(request.header.opcode).ok_or(Errno::ENOSYS)?;
        match opcode {
            Opcode::Init => return self.init(request),
            // What came before a session has no meaning.
            _ if !self.tables().has_session() => return Err(Errno::EIO),
            _ => {}
        }
        match opcode {
            Opcode::Init => Err(Errno::EIO),
            Opcode::Destroy => self.destroy(),
            Opcode::Lookup => self.lookup(request),
            Opcode::Forget => self.forget(request),
            Opcode::BatchForget => self.batch_forget(request),
            // What is to be interrupted was done before this was read.
            Opcode::Interrupt => Ok(Answer::Nothing),
            Opcode::Getattr => self.getattr(request),
            Opcode::Statx => self.statx(request),
            Opcode::Setattr => self.setattr(request),
            Opcode::Readlink => self.readlink(request),
            Opcode::Symlink => self.symlink(request),
            Opcode::Mknod => self.mknod(request),
            Opcode::Mkdir => self.mkdir(request),
            Opcode::Unlink => self.unlink(request),
            Opcode::Rmdir => self.rmdir(request),
            Opcode::Rename => self.rename(request),
            Opcode::Rename2 => self.rename2(request),
            Opcode::Link => self.link(request),
            Opcode::Open => self.open(request),
            Opcode::Create => self.create(request),
            Opcode::Tmpfile => self.tmpfile(request),
            Opcode::Read => self.read(request, to),
            Opcode::Write => self.write(request, from),
            Opcode::Getlk => self.getlk(request),
            Opcode::Setlk => self.setlk(request, false),
            Opcode::Setlkw => self.setlk(request, true),
            Opcode::Flush => self.flush(request),
            Opcode::Release | Opcode::Releasedir => self.release(request),
            Opcode::Fsync | Opcode::Fsyncdir => self.fsync(request),
            Opcode::Fallocate => self.fallocate(request),
            Opcode::Lseek => self.lseek(request),
            Opcode::CopyFileRange => self.copy_file_range(request),
            Opcode::Statfs => self.statfs(request),
            Opcode::Syncfs => self.syncfs(request),
            Opcode::Opendir => self.opendir(request),
            Opcode::Readdir => self.readdir(request),
            Opcode::Readdirplus => self.readdirplus(request),
            Opcode::Setxattr => self.setxattr(request),
            Opcode::Getxattr => self.getxattr(request),
            Opcode::Listxattr => self.listxattr(request),
            Opcode::Removexattr => self.removexattr(request),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.files.locked()
    }

    /// A file that the guest knows by that number.
    fn inode(&self, number: u64) -> Outcome<Known> {
        self.tables().inodes.get(number)?.known()
    }

    /// What the guest has opened by that number.
    fn handle(&self, fh: u64) -> Outcome<Opened> {
        self.tables().opened(fh)
    }

    /// Keeps what the guest has opened.
    fn keep(&self, file: OwnedFd, tree: u32, kind: Kind, position: Option<u64>) -> Outcome<u64> {
        let handle = Handle {
            file: Some(Arc::new(file)),
            tree,
            kind,
            position,
        };
        let mut tables = self.tables();
        tables.check(self.epoch, tree)?;
        tables.check_room()?;
        tables.handles.insert(handle).ok_or(Errno::ENFILE)
    }

    /// What kind of filesystem an open file is of, which has this number.
    fn kind(&self, device: u64, file: impl AsFd) -> Outcome<Kind> {
        if let Some(kind) = self.tables().kinds.known(device) {
            return Ok(kind);
        }
        let kind = kinds::ask(file)?;
        self.tables().kinds.learn(device, kind);
        Ok(kind)
    }

    /// That one more file may be open.
    fn check_room(&self) -> Outcome<()> {
        self.tables().check_room()
    }
}

/// For how many seconds the guest may believe what it was told.
fn seconds(changes: Changes) -> u64 {
    match changes {
        Changes::Anybody => 1,
        Changes::GuestOnly => 24 * 60 * 60,
    }
}

/// A file's name in the working directory.
fn place(file: BorrowedFd<'_>) -> CString {
    CString::new(file.as_raw_fd().to_string()).unwrap_or_default()
}

/// Opens a file again, with access to its content.
fn open_again(file: BorrowedFd<'_>, flags: libc::c_int) -> Outcome<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    openat(AT_FDCWD, &*place(file), flags, Mode::empty())
}
