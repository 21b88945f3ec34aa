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

mod attributes;
mod content;
mod credentials;
mod directory;
mod extended;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod inodes;
mod lookup;
mod names;
mod overlay;
mod session;
mod slots;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use trefoil_vmm::devices::queue::Buffers;

use crate::fuse::Outcome;
use crate::fuse::answer::{self, Answer};
use crate::fuse::request::Request;
use crate::fuse::wire::Opcode;
use crate::tree::Changes;
use credentials::Credentials;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
use inodes::{Belongs, Inode, Inodes};
use slots::Slots;

/// What a file opened by the guest is.
#[derive(Debug)]
struct Handle {
    /// `None` once its tree was taken away.
    file: Option<OwnedFd>,
    tree: u32,
    /// Where in a directory the next name is read, if that is known.
    position: Option<u64>,
}

/// The files that are shared, and all that the guest holds of them.
#[derive(Debug)]
pub struct Passthrough {
    inodes: Inodes,
    handles: Slots<Handle>,
    /// How many files may be known or open.
    most: usize,
    trees: HashMap<Vec<u8>, Belongs>,
    /// How many trees there have been.
    last_tree: u32,
    credentials: Credentials,
    /// The flags that the guest's kernel and we both know; none before it has begun.
    session: Option<u32>,
    /// The answer that is being made.
    said: Vec<u8>,
    /// The request that is being read.
    room: Vec<u8>,
}

impl Passthrough {
    /// Shares what is in the directory `root`, which belongs to nobody else: the server's. Of files, as many are
    /// held as given.
    ///
    /// The calling thread's working directory is its `/proc/self/fd`.
    pub fn new(root: OwnedFd, most: usize) -> Outcome<Self> {
        let found = attributes::status(root.as_fd())?;
        let belongs = Belongs {
            tree: 0,
            changes: Changes::Anybody,
        };
        Ok(Self {
            inodes: Inodes::new(Inode::new(root, found.key, found.kind(), belongs)),
            handles: Slots::new(),
            most,
            trees: HashMap::new(),
            last_tree: 0,
            credentials: Credentials::new(),
            session: None,
            said: Vec::new(),
            room: Vec::new(),
        })
    }

    /// A name in the root is a tree from now on.
    pub fn add(&mut self, name: &str, changes: Changes) {
        self.last_tree = self.last_tree.wrapping_add(1).max(1);
        let belongs = Belongs {
            tree: self.last_tree,
            changes,
        };
        self.trees.insert(name.into(), belongs);
    }

    /// A name in the root is no tree any more. All of its files are closed.
    pub fn remove(&mut self, name: &str) {
        let Some(Belongs { tree, .. }) = self.trees.remove(name.as_bytes()) else {
            return;
        };
        self.inodes.close(tree);
        for handle in self.handles.iter_mut() {
            if handle.tree == tree {
                handle.file = None;
            }
        }
    }

    /// Does what a request asks for, and answers it. Says how long the answer is.
    pub fn serve(&mut self, request: &Buffers, answer: &Buffers) -> u32 {
        let mut room = std::mem::take(&mut self.room);
        let length = match Request::copy(request, &mut room) {
            None => 0,
            Some(mut asked) => {
                self.said.clear();
                let outcome = self.dispatch(&mut asked, request, answer);
                answer::write(asked.header.unique, outcome, &self.said, answer)
            }
        };
        self.room = room;
        length
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
            _ if self.session.is_none() => return Err(Errno::EIO),
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

    /// What the guest has opened by that number.
    fn handle(&self, fh: u64) -> Outcome<BorrowedFd<'_>> {
        opened(&self.handles, fh)
    }

    /// Keeps what the guest has opened.
    fn keep(&mut self, file: OwnedFd, tree: u32, position: Option<u64>) -> Outcome<u64> {
        let handle = Handle {
            file: Some(file),
            tree,
            position,
        };
        self.handles.insert(handle).ok_or(Errno::ENFILE)
    }

    /// That one more file may be open.
    fn check_room(&self) -> Outcome<()> {
        match self.inodes.len() + self.handles.len() < self.most {
            true => Ok(()),
            false => Err(Errno::ENFILE),
        }
    }

    /// How many files may be known.
    fn most_inodes(&self) -> usize {
        self.most.saturating_sub(self.handles.len())
    }
}

fn opened(handles: &Slots<Handle>, fh: u64) -> Outcome<BorrowedFd<'_>> {
    let handle = handles.get(fh).ok_or(Errno::EBADF)?;
    handle.file.as_ref().map(AsFd::as_fd).ok_or(Errno::ESTALE)
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
