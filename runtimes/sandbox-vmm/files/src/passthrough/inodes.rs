//! The files that the guest knows.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::slots::Slots;
use crate::fuse::Outcome;
use crate::tree::Changes;

/// The number of the root of what is shared.
pub const ROOT: u64 = 1;

/// What makes a file the same one: where it is on which filesystem, and by which mount it was come
/// to. By another mount it may be read-only, or have something else above it.
///
/// While a file is known the server has it open, so that neither its number nor its mount's is used
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The mount's number.
    pub mount: u64,
    /// The filesystem's.
    pub device: u64,
    /// The file's.
    pub inode: u64,
}

/// Which of the trees a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// The tree's number; the root of all of them has 0.
    pub tree: u32,
    /// Who may change it.
    pub changes: Changes,
}

/// A file that the guest knows.
#[derive(Debug)]
pub struct Inode {
    /// The file, opened without any access to its content. `None` once its tree was taken away.
    file: Option<Arc<OwnedFd>>,
    /// Which one it is.
    pub key: Key,
    /// Its type, of the bits of `S_IFMT`.
    pub kind: libc::mode_t,
    /// Where it belongs.
    pub belongs: Belongs,
    /// How often the guest was told of it, and has not forgotten that.
    lookups: u64,
}

impl Inode {
    /// A file, looked up once.
    pub fn new(file: Arc<OwnedFd>, key: Key, kind: libc::mode_t, belongs: Belongs) -> Self {
        Self {
            file: Some(file),
            key,
            kind,
            belongs,
            lookups: 1,
        }
    }

    /// Whether its tree is still there.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// What a request needs of it.
    pub fn known(&self) -> Outcome<Known> {
        Ok(Known {
            file: Arc::clone(self.file.as_ref().ok_or(Errno::ESTALE)?),
            key: self.key,
            kind: self.kind,
            belongs: self.belongs,
        })
    }
}

/// What is known of a file while a request is done. The file stays open that long.
#[derive(Clone, Debug)]
pub struct Known {
    /// The file, opened without any access to its content.
    pub file: Arc<OwnedFd>,
    /// Which one it is.
    pub key: Key,
    /// Its type, of the bits of `S_IFMT`.
    pub kind: libc::mode_t,
    /// Where it belongs.
    pub belongs: Belongs,
}

/// All of them.
#[derive(Debug)]
pub struct Inodes {
    slots: Slots<Inode>,
    known: HashMap<Key, u64>,
}

impl Inodes {
    /// Only the root.
    pub fn new(root: Inode) -> Self {
        let mut slots = Slots::new();
        slots.insert(root);
        Self {
            slots,
            known: HashMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// By its number.
    pub fn get(&self, number: u64) -> Outcome<&Inode> {
        self.slots.get(number).ok_or(Errno::ESTALE)
    }

    /// Remembers that the guest was told of a file, and says by what number. `most` is how many
    /// files there may be.
    pub fn remember(&mut self, inode: Inode, most: usize) -> Outcome<u64> {
        let room = self.slots.len() < most;
        match self.known.entry(inode.key) {
            Entry::Occupied(known) => {
                let number = *known.get();
                let known = self.slots.get_mut(number).ok_or(Errno::ESTALE)?;
                known.lookups = known.lookups.saturating_add(1);
                Ok(number)
            }
            Entry::Vacant(_) if !room => Err(Errno::ENFILE),
            Entry::Vacant(place) => {
                let number = self.slots.insert(inode).ok_or(Errno::ENFILE)?;
                Ok(*place.insert(number))
            }
        }
    }

    /// Takes back that the guest was told of a file so many times. What is to be closed is handed out.
    pub fn forget(&mut self, number: u64, times: u64) -> Option<Inode> {
        if number == ROOT {
            return None;
        }
        let inode = self.slots.get_mut(number)?;
        inode.lookups = inode.lookups.saturating_sub(times);
        if inode.lookups > 0 {
            return None;
        }
        let inode = self.slots.remove(number)?;
        if inode.file.is_some() {
            self.known.remove(&inode.key);
        }
        Some(inode)
    }

    /// Lets go of all files of a tree, which are to be closed. Their numbers stay until the guest forgets
    /// them.
    pub fn close(&mut self, tree: u32) -> Vec<Arc<OwnedFd>> {
        let mut gone = Vec::new();
        for inode in self.slots.iter_mut() {
            if inode.belongs.tree == tree
                && let Some(file) = inode.file.take()
            {
                self.known.remove(&inode.key);
                gone.push(file);
            }
        }
        gone
    }

    /// The numbers of the filesystems that they are of.
    pub fn devices(&self) -> HashSet<u64> {
        self.known.keys().map(|key| key.device).collect()
    }

    /// Forgets all but the root. What is to be closed is handed out.
    pub fn clear(&mut self) -> Vec<Inode> {
        self.known.clear();
        self.slots.clear(Some(ROOT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(number: u64, tree: u32) -> Inode {
        let key = Key {
            mount: 1,
            device: 1,
            inode: number,
        };
        let belongs = Belongs {
            tree,
            changes: Changes::Anybody,
        };
        let file = std::fs::File::open("/dev/null").expect("open");
        Inode::new(Arc::new(file.into()), key, libc::S_IFREG, belongs)
    }

    #[test]
    fn a_file_is_kept_until_it_is_forgotten_as_often_as_it_was_told_of() {
        let mut inodes = Inodes::new(inode(0, 0));
        let number = inodes.remember(inode(7, 1), 9).expect("room");
        assert_eq!(inodes.remember(inode(7, 1), 9), Ok(number));
        inodes.forget(number, 1);
        inodes.get(number).expect("it is known");
        inodes.forget(number, 1);
        assert_eq!(inodes.get(number).err(), Some(Errno::ESTALE));
        assert_ne!(inodes.remember(inode(7, 1), 9), Ok(number));
        inodes.forget(ROOT, u64::MAX);
        inodes.get(ROOT).expect("the root stays");
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let mut inodes = Inodes::new(inode(0, 0));
        let number = inodes.remember(inode(7, 1), 2).expect("room");
        assert_eq!(inodes.remember(inode(8, 1), 2), Err(Errno::ENFILE));
        assert_eq!(inodes.remember(inode(7, 1), 2), Ok(number));
        inodes.clear();
        assert_eq!(inodes.len(), 1);
    }

    #[test]
    fn files_of_a_tree_that_is_taken_away_are_closed_and_can_be_forgotten() {
        let mut inodes = Inodes::new(inode(0, 0));
        let gone = inodes.remember(inode(7, 1), 9).expect("room");
        let other = inodes.remember(inode(8, 2), 9).expect("room");
        assert_eq!(inodes.close(1).len(), 1);
        let known = inodes.get(gone).expect("known").known();
        assert_eq!(known.err(), Some(Errno::ESTALE));
        inodes.get(other).expect("known").known().expect("open");
        // The same file, shared again.
        let again = inodes.remember(inode(7, 3), 9).expect("room");
        inodes.forget(gone, 1);
        assert_eq!(inodes.remember(inode(7, 3), 9), Ok(again));
    }
}
