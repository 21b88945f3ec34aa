//! What the guest holds of what is shared, for all threads.
//!
//! It is locked to look something up, never while a file is asked for anything: one that hangs would
//! make all others wait.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use trefoil_os::lock;

use super::attributes;
use super::inodes::{Inode, Inodes};
use super::kinds::{Kind, Kinds};
use super::locks::Owners;
use super::slots::Slots;
use super::trees::{Belongs, Trees};
use crate::fuse::Outcome;
use crate::message::Flush;
use crate::tree::Shown;

/// What a file opened by the guest is.
#[derive(Debug)]
pub struct Handle {
    /// `None` once its tree was taken away.
    pub file: Option<Arc<OwnedFd>>,
    /// Its tree.
    pub tree: u32,
    /// What kind of filesystem it is of.
    pub kind: Kind,
    /// Where in a directory the next name is read, if that is known.
    pub position: Option<u64>,
}

/// A file opened by the guest, which stays open while a request is done.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The file.
    pub file: Arc<OwnedFd>,
    /// What kind of filesystem it is of.
    pub kind: Kind,
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// When something was begun: what it finds may be of no use to anybody later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// How many sessions there had been.
    session: u64,
    /// How many trees had been taken away.
    removed: u64,
}

/// All of it.
#[derive(Debug)]
pub struct Tables {
    /// What it knows.
    pub inodes: Inodes,
    /// What it has opened.
    pub handles: Slots<Handle>,
    /// What is shared, by name.
    pub trees: Trees,
    /// What is known of filesystems.
    pub kinds: Kinds,
    /// Who has POSIX locks.
    pub owners: Owners,
    /// Of which closes the guest's kernel tells.
    pub flush: Flush,
    /// How many files may be known or open.
    most: usize,
    /// The flags that the guest's kernel and we both know; none before it has begun.
    session: Option<u32>,
    epoch: Epoch,
}

impl Tables {
    /// When it is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// That what was begun then may still hold something of a tree.
    pub fn check(&self, begun: Epoch, tree: u32) -> Outcome<()> {
        if begun == self.epoch {
            return Ok(());
        }
        match begun.session == self.epoch.session && self.trees.has(tree) {
            true => Ok(()),
            false => Err(Errno::ESTALE),
        }
    }

    /// What the guest has opened by that number.
    pub fn opened(&self, fh: u64) -> Outcome<Opened> {
        let handle = self.handles.get(fh).ok_or(Errno::EBADF)?;
        Ok(Opened {
            file: Arc::clone(handle.file.as_ref().ok_or(Errno::ESTALE)?),
            kind: handle.kind,
        })
    }

    /// What was opened is closed, and so are its locks: whether it was there, and what is to be closed.
    pub fn release(&mut self, node: u64, fh: u64) -> (bool, Vec<Arc<OwnedFd>>) {
        let mut gone = match self.owners.len() {
            0 => Vec::new(),
            _ => self.owners.release(node, fh),
        };
        let handle = self.handles.remove(fh);
        let was_there = handle.is_some();
        gone.extend(handle.and_then(|handle| handle.file));
        (was_there, gone)
    }

    /// That one more file may be open.
    pub fn check_room(&self) -> Outcome<()> {
        match self.held() < self.most {
            true => Ok(()),
            false => Err(Errno::ENFILE),
        }
    }

    /// How many files are known or open.
    pub fn held(&self) -> usize {
        self.inodes.len() + self.handles.len() + self.owners.len()
    }

    /// How many files may be known.
    pub fn most_inodes(&self) -> usize {
        let others = self.handles.len() + self.owners.len();
        self.most.saturating_sub(others)
    }

    /// Begins a session, with these flags.
    pub fn begin(&mut self, flags: u32) {
        self.session = Some(flags);
    }

    /// Ends the session. All that the guest held is to be closed.
    pub fn end(&mut self) -> (Vec<Inode>, Vec<Handle>, Vec<Arc<OwnedFd>>) {
        self.session = None;
        self.epoch.session += 1;
        let owned = self.owners.clear();
        (self.inodes.clear(), self.handles.clear(None), owned)
    }

    /// Whether there is a session.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Whether both sides know of it.
    pub fn agreed(&self, flag: u32) -> bool {
        self.session.is_some_and(|flags| flags & flag != 0)
    }
}

/// A tree that was taken away: its number, and what of it is to be closed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Its number; none if there was no such tree.
    pub tree: Option<u32>,
    /// What can be closed at once.
    pub files: Vec<Arc<OwnedFd>>,
    /// What may hang when it is closed.
    pub remote: Vec<Arc<OwnedFd>>,
}

/// The files that are shared, and all that the guest holds of them. A copy is the same.
#[derive(Clone, Debug)]
pub struct Files(Arc<Mutex<Tables>>);

impl Files {
    /// Shares what is in the directory `root`; of files, as many are held as given.
    pub fn new(root: OwnedFd, most: usize) -> Outcome<Self> {
        let found = attributes::status(root.as_fd())?;
        let root = Inode::new(Arc::new(root), found.key, found.kind(), Belongs::TOP);
        Ok(Self(Arc::new(Mutex::new(Tables {
            inodes: Inodes::new(root),
            handles: Slots::new(),
            trees: Trees::default(),
            kinds: Kinds::default(),
            owners: Owners::default(),
            flush: Flush::default(),
            most,
            session: None,
            epoch: Epoch::default(),
        }))))
    }

    /// From now on the guest's kernel tells of these closes.
    pub fn told_of(&self, flush: Flush) {
        self.locked().flush = flush;
    }

    /// All of it, for this thread alone.
    pub fn locked(&self) -> MutexGuard<'_, Tables> {
        lock(&self.0)
    }

    /// A name is a tree from now on: in the root, or as `filesystem/name`.
    pub fn add(&self, name: &str, shown: Shown) {
        self.locked().trees.add(name, shown);
    }

    /// A name is no tree any more. All of its files are to be closed.
    pub fn remove(&self, name: &str) -> Removed {
        let mut tables = self.locked();
        let Some(tree) = tables.trees.remove(name) else {
            return Removed::default();
        };
        tables.epoch.removed += 1;
        let mut removed = Removed {
            tree: Some(tree),
            // To close what is only known asks nobody.
            files: tables.inodes.close(tree),
            remote: Vec::new(),
        };
        for handle in tables.handles.iter_mut() {
            if handle.tree == tree
                && let Some(file) = handle.file.take()
            {
                match handle.kind.local {
                    true => removed.files.push(file),
                    false => removed.remote.push(file),
                }
            }
        }
        // Where they are of the node's own, this gives locks back.
        removed.remote.extend(tables.owners.close(tree));
        let devices = tables.inodes.devices();
        tables.kinds.keep(&devices);
        removed
    }
}
