//! Finding files by their names, and forgetting them.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::attributes::{Status, status, status_below};
use super::inodes::{Inode, Known};
use super::trees::{Belongs, Names, Top};
use super::{Passthrough, seconds};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{ATTR_SUBMOUNT, BatchForgetIn, EntryOut, ForgetIn, ForgetOne, Wire, init};
use crate::tree::Changes;

/// For a file as such, whatever it is: no link is followed, no device opened.
pub(super) const AS_IT_IS: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Passthrough {
    pub(super) fn lookup(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let above = self.inode(request.header.nodeid)?;
        let outcome = self.entry(&above, request.name()?);
        let entry = match outcome {
            // That there is none can be remembered, too.
            Err(Errno::ENOENT) if above.belongs.shown.changes == Changes::GuestOnly => EntryOut {
                entry_valid: seconds(Changes::GuestOnly),
                ..EntryOut::default()
            },
            outcome => outcome?,
        };
        entry.put(&mut self.said);
        Ok(Answer::Said)
    }

    /// Finds a file, and remembers that the guest is told of it.
    pub(super) fn entry(&mut self, above: &Known, name: &CStr) -> Outcome<EntryOut> {
        let file = openat(&above.file, name, AS_IT_IS, Mode::empty())?;
        self.told(above, name, file)
    }

    /// As [`Self::entry`], of a file that the guest knows already: it is open, so that its number is nobody
    /// else's, and need not be opened to be told apart.
    pub(super) fn known_entry(&mut self, above: &Known, name: &CStr) -> Option<EntryOut> {
        let belongs = above.belongs;
        let Status { mut key, attr } = status_below(above.file.as_fd(), name).ok()?;
        if above.names != Names::Files || key.mount != above.key.mount {
            return None;
        }
        if belongs.filesystem != 0 {
            key.mount = 0;
        }
        let mut tables = self.tables();
        tables.check(self.epoch, belongs.tree).ok()?;
        let nodeid = tables.inodes.remember_again(&key, belongs.tree)?;
        let valid = seconds(belongs.shown.changes);
        Some(EntryOut {
            nodeid,
            entry_valid: valid,
            attr_valid: valid,
            attr,
            ..EntryOut::default()
        })
    }

    /// Remembers that the guest is told of a file that was found by a name.
    pub(super) fn told(&mut self, above: &Known, name: &CStr, file: OwnedFd) -> Outcome<EntryOut> {
        let Status { mut key, mut attr } = status(file.as_fd())?;
        let kind = attr.mode & libc::S_IFMT;
        let crosses = key.mount != above.key.mount;
        // It is closed after the tables were let go of, should it be known already.
        let file = Arc::new(file);
        let mut tables = self.tables();
        let mut names = Names::Files;
        // Whether the guest is to mount it as a filesystem of its own.
        let (belongs, mounted) = match above.names {
            Names::Files => (above.belongs, crosses && above.belongs.filesystem == 0),
            top => match tables.trees.find(top, name.to_bytes())? {
                Top::Filesystem(number) => {
                    names = Names::Filesystem(number);
                    (Belongs::TOP, true)
                }
                // Between the making of a name and the mount upon it, it leads nowhere.
                Top::Tree(_) if !crosses => return Err(Errno::ENOENT),
                Top::Tree(belongs) => (belongs, belongs.filesystem == 0),
            },
        };
        if belongs.filesystem != 0 {
            key.mount = 0;
        }
        tables.check(self.epoch, belongs.tree)?;
        if mounted && kind == libc::S_IFDIR && tables.agreed(init::SUBMOUNTS) {
            attr.flags |= ATTR_SUBMOUNT;
        }
        let most = tables.most_inodes();
        let mut inode = Inode::new(Arc::clone(&file), key, kind, belongs);
        inode.names = names;
        let nodeid = tables.inodes.remember(inode, most)?;
        drop(tables);
        let valid = seconds(belongs.shown.changes);
        Ok(EntryOut {
            nodeid,
            // A tree may be taken away at any time, and another have its name.
            entry_valid: match above.names {
                Names::Files => valid,
                _ => 0,
            },
            attr_valid: valid,
            attr,
            ..EntryOut::default()
        })
    }

    pub(super) fn forget(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        // There is no answer, not even to one that makes no sense.
        if let Ok(ForgetIn { nlookup }) = request.take() {
            self.forget_one(request.header.nodeid, nlookup);
        }
        Ok(Answer::Nothing)
    }

    pub(super) fn forget_one(&self, nodeid: u64, times: u64) {
        let gone = self.tables().inodes.forget(nodeid, times);
        // The tables are let go of by now.
        drop(gone);
    }

    pub(super) fn batch_forget(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let BatchForgetIn { count, .. } = request.take().unwrap_or_default();
        for _ in 0..count {
            let Ok(ForgetOne { nodeid, nlookup }) = request.take() else {
                break;
            };
            self.forget_one(nodeid, nlookup);
        }
        Ok(Answer::Nothing)
    }
}
