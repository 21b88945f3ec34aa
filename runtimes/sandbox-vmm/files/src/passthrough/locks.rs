//! Locks, which are the host's: whoever has a file there, another pod or the node, is held by them.
//!
//! `flock` locks what was opened, and so it does here. POSIX locks are a process's, of which the guest's
//! kernel tells by a number, the owner: each owner has the file open here once more, and open file
//! description locks there. Nobody waits in here: that is [`Answer::Later`].

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use rustix::fs::FlockOperation;

use super::{Passthrough, open_again};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{LK_FLOCK, LkIn, LkOut, Wire};

/// Where a lock ends that is of all that is and will be in a file.
const END: u64 = i64::MAX as u64;

/// Who has POSIX locks of a file, or had.
#[derive(Debug)]
struct Owner {
    /// What the guest's kernel calls it.
    number: u64,
    /// The locks are this one's.
    file: Arc<OwnedFd>,
    /// By which it locked last.
    handle: u64,
    tree: u32,
}

/// All owners, by the number of the file.
#[derive(Debug, Default)]
pub struct Owners {
    files: HashMap<u64, Vec<Owner>>,
    count: usize,
}

impl Owners {
    /// How many files are open for them.
    pub fn len(&self) -> usize {
        self.count
    }

    fn find(&mut self, node: u64, number: u64, handle: u64) -> Option<Arc<OwnedFd>> {
        let owners = self.files.get_mut(&node)?;
        let owner = owners.iter_mut().find(|owner| owner.number == number)?;
        owner.handle = handle;
        Some(Arc::clone(&owner.file))
    }

    fn insert(&mut self, node: u64, owner: Owner) {
        self.files.entry(node).or_default().push(owner);
        self.count += 1;
    }

    fn remove_from(&mut self, node: u64, which: impl Fn(&Owner) -> bool) -> Vec<Arc<OwnedFd>> {
        let Some(owners) = self.files.get_mut(&node) else {
            return Vec::new();
        };
        let gone: Vec<_> = owners
            .extract_if(.., |owner| which(owner))
            .map(|owner| owner.file)
            .collect();
        if owners.is_empty() {
            self.files.remove(&node);
        }
        self.count -= gone.len();
        gone
    }

    /// An owner has closed the file. What is to be closed is handed out, here and below.
    pub fn remove(&mut self, node: u64, number: u64) -> Vec<Arc<OwnedFd>> {
        self.remove_from(node, |owner| owner.number == number)
    }

    /// What was opened is closed by all who had it.
    pub fn release(&mut self, node: u64, handle: u64) -> Vec<Arc<OwnedFd>> {
        self.remove_from(node, |owner| owner.handle == handle)
    }

    /// A tree was taken away.
    pub fn close(&mut self, tree: u32) -> Vec<Arc<OwnedFd>> {
        let nodes: Vec<u64> = self.files.keys().copied().collect();
        let mut gone = Vec::new();
        for node in nodes {
            gone.extend(self.remove_from(node, |owner| owner.tree == tree));
        }
        gone
    }

    /// The session has ended.
    pub fn clear(&mut self) -> Vec<Arc<OwnedFd>> {
        let nodes: Vec<u64> = self.files.keys().copied().collect();
        let gone = nodes
            .into_iter()
            .flat_map(|node| self.remove_from(node, |_| true));
        gone.collect()
    }
}

impl Passthrough {
    pub(super) fn getlk(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let asked: LkIn = request.take()?;
        let file = self.owned(request.header.nodeid, &asked)?;
        let mut lock = posix(&asked)?;
        // SAFETY: the kernel reads and writes the structure, which lives through the call.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        Errno::result(outcome)?;
        let start = lock.l_start.cast_unsigned();
        LkOut {
            start,
            end: match lock.l_len {
                0 => END,
                length => start.saturating_add(length.cast_unsigned()) - 1,
            },
            kind: u32::from(lock.l_type.cast_unsigned()),
            // A process of the host's is none of the guest's.
            pid: 0,
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    /// Locks or unlocks. If somebody else has a lock, and `waits`, it is to be done again later.
    pub(super) fn setlk(&mut self, request: &mut Request<'_>, waits: bool) -> Outcome<Answer> {
        let asked: LkIn = request.take()?;
        let outcome = match asked.lk_flags & LK_FLOCK {
            0 => self.set_posix(request.header.nodeid, &asked),
            _ => set_flock(self.handle(asked.fh)?.as_fd(), asked.kind),
        };
        match outcome {
            Err(Errno::EAGAIN | Errno::EACCES) if waits => Ok(Answer::Later),
            Err(Errno::EACCES) => Err(Errno::EAGAIN),
            outcome => outcome.map(|()| Answer::Said),
        }
    }

    fn set_posix(&mut self, node: u64, asked: &LkIn) -> Outcome<()> {
        let lock = posix(asked)?;
        let unlocks = asked.kind == libc::F_UNLCK as u32;
        if unlocks && asked.start == 0 && asked.end == END {
            // It closes what it locked by, too.
            self.drop_owner(node, asked.owner);
            return Ok(());
        }
        let file = self.owned(node, asked)?;
        // SAFETY: the kernel reads the structure, which lives through the call.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        Errno::result(outcome).map(drop)
    }

    /// By what an owner locks a file, which the guest has open.
    fn owned(&mut self, node: u64, asked: &LkIn) -> Outcome<Arc<OwnedFd>> {
        let inode = self.inode(node)?;
        {
            let mut tables = self.tables();
            tables.opened(asked.fh)?;
            if let Some(file) = tables.owners.find(node, asked.owner, asked.fh) {
                return Ok(file);
            }
            tables.check_room()?;
        }
        if inode.kind != libc::S_IFREG {
            return Err(Errno::EBADF);
        }
        let file = match open_again(inode.file.as_fd(), libc::O_RDWR) {
            Ok(file) => file,
            // Then nobody locks it to write.
            Err(_) => open_again(inode.file.as_fd(), libc::O_RDONLY)?,
        };
        let file = Arc::new(file);
        let owner = Owner {
            number: asked.owner,
            file: Arc::clone(&file),
            handle: asked.fh,
            tree: inode.belongs.tree,
        };
        let mut tables = self.tables();
        tables.check(self.epoch, owner.tree)?;
        if let Some(file) = tables.owners.find(node, asked.owner, asked.fh) {
            return Ok(file);
        }
        tables.owners.insert(node, owner);
        Ok(file)
    }

    /// An owner has no lock of a file any more.
    pub(super) fn drop_owner(&self, node: u64, owner: u64) {
        let gone = self.tables().owners.remove(node, owner);
        // The tables are let go of by now.
        drop(gone);
    }
}

fn posix(asked: &LkIn) -> Outcome<libc::flock> {
    let signed = |number| i64::try_from(number).map_err(|_| Errno::EINVAL);
    let (start, end) = (signed(asked.start)?, signed(asked.end)?);
    if start > end || asked.kind > libc::F_UNLCK as u32 {
        return Err(Errno::EINVAL);
    }
    Ok(libc::flock {
        l_type: asked.kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: match asked.end {
            END => 0,
            _ => end - start + 1,
        },
        l_pid: 0,
    })
}

fn set_flock(file: BorrowedFd<'_>, kind: u32) -> Outcome<()> {
    let how = match kind.cast_signed() {
        libc::F_RDLCK => FlockOperation::NonBlockingLockShared,
        libc::F_WRLCK => FlockOperation::NonBlockingLockExclusive,
        libc::F_UNLCK => FlockOperation::NonBlockingUnlock,
        _ => return Err(Errno::EINVAL),
    };
    rustix::fs::flock(file, how).map_err(|why| Errno::from_raw(why.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn owner(number: u64, handle: u64, tree: u32) -> Owner {
        let file = std::fs::File::open("/dev/null").expect("open");
        Owner {
            number,
            file: Arc::new(file.into()),
            handle,
            tree,
        }
    }

    proptest! {
        /// Beside a list of all that there should be.
        #[test]
        fn owners_are_there_until_they_go(
            steps in prop::collection::vec((0..6_u8, 1..4_u64, 1..4_u64, 1..4_u64, 1..3_u32), 0..60)
        ) {
            let mut owners = Owners::default();
            let mut model: HashMap<(u64, u64), (u64, u32)> = HashMap::new();
            for (step, node, number, handle, tree) in steps {
                let before = model.len();
                let gone = match step {
                    0..=2 => {
                        let found = owners.find(node, number, handle).is_some();
                        prop_assert_eq!(found, model.contains_key(&(node, number)));
                        match model.get_mut(&(node, number)) {
                            Some((by, _)) => *by = handle,
                            None => {
                                owners.insert(node, owner(number, handle, tree));
                                model.insert((node, number), (handle, tree));
                            }
                        }
                        continue;
                    }
                    3 => {
                        model.remove(&(node, number));
                        owners.remove(node, number)
                    }
                    4 => {
                        model.retain(|(of, _), (by, _)| *of != node || *by != handle);
                        owners.release(node, handle)
                    }
                    _ => {
                        model.retain(|_, (_, of)| *of != tree);
                        owners.close(tree)
                    }
                };
                prop_assert_eq!(gone.len(), before - model.len());
                prop_assert_eq!(owners.len(), model.len());
                let nodes: HashSet<_> = model.keys().map(|(node, _)| *node).collect();
                prop_assert_eq!(owners.files.len(), nodes.len());
            }
            prop_assert_eq!(owners.clear().len(), model.len());
            prop_assert_eq!(owners.len(), 0);
        }
    }
}
