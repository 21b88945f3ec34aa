//! The files that the guest knows.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::slots::Slots;
use super::trees::{Belongs, Names};
use crate::fuse::Outcome;

/// The number of the root of what is shared.
pub const ROOT: u64 = 1;

/// What makes a file the same one: where it is on which filesystem, and by which mount it was come
/// to. By another mount it may be read-only, or have something else above it.
///
/// Of trees that are one filesystem in the guest the mount does not count, and is 0.
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

/// A file as it was come to in one tree.
#[derive(Debug)]
struct Found {
    /// The file, opened without any access to its content.
    file: Arc<OwnedFd>,
    belongs: Belongs,
}

/// What is known of a file while a request is done. It stays open that long.
#[derive(Clone, Debug)]
pub struct Known {
    /// The file, opened without any access to its content.
    pub file: Arc<OwnedFd>,
    /// Which one it is.
    pub key: Key,
    /// Its type, of the bits of `S_IFMT`.
    pub kind: libc::mode_t,
    /// What names in it are.
    pub names: Names,
    /// The tree to use it by.
    pub belongs: Belongs,
}

/// A file that the guest knows.
#[derive(Debug)]
pub struct Inode {
    /// In the tree to use it by. `None` once all that it was come to in were taken away.
    first: Option<Found>,
    /// In other trees, the next to use first. Mostly none, and nothing is allocated for none.
    others: Vec<Found>,
    /// Which one it is.
    pub key: Key,
    /// Its type, of the bits of `S_IFMT`.
    pub kind: libc::mode_t,
    /// What names in it are.
    pub names: Names,
    /// How often the guest was told of it, and has not forgotten that.
    lookups: u64,
}

impl Inode {
    /// A file, looked up once.
    pub fn new(file: Arc<OwnedFd>, key: Key, kind: libc::mode_t, belongs: Belongs) -> Self {
        Self {
            first: Some(Found { file, belongs }),
            others: Vec::new(),
            key,
            kind,
            names: Names::Files,
            lookups: 1,
        }
    }

    /// What a request needs of it.
    pub fn known(&self) -> Outcome<Known> {
        let first = self.first.as_ref().ok_or(Errno::ESTALE)?;
        Ok(Known {
            file: Arc::clone(&first.file),
            key: self.key,
            kind: self.kind,
            names: self.names,
            belongs: first.belongs,
        })
    }

    /// Whether a tree that it was come to in is still there.
    pub fn is_open(&self) -> bool {
        self.first.is_some()
    }

    /// Whether it was come to in this tree.
    pub fn is_in(&self, tree: u32) -> bool {
        self.found().any(|found| found.belongs.tree == tree)
    }

    /// Which tree the former belongs to.
    pub fn belongs(&self) -> Outcome<Belongs> {
        let first = self.first.as_ref().ok_or(Errno::ESTALE)?;
        Ok(first.belongs)
    }

    /// This file and another, both by one tree: the kernel takes two of different trees for two of
    /// different filesystems. `None` if there is none that both were come to in.
    pub fn with(&self, other: &Self) -> Option<(Arc<OwnedFd>, Arc<OwnedFd>)> {
        self.found().find_map(|one| {
            let mut others = other.found();
            let two = others.find(|two| two.belongs.tree == one.belongs.tree)?;
            Some((Arc::clone(&one.file), Arc::clone(&two.file)))
        })
    }

    fn found(&self) -> impl Iterator<Item = &Found> {
        self.first.iter().chain(&self.others)
    }

    /// Keeps what was found of the same file in another tree. Says how many more files are open now.
    fn merge(&mut self, mut other: Self) -> usize {
        let Some(new) = other.first.take() else {
            return 0;
        };
        if self.found().any(|one| one.belongs.tree == new.belongs.tree) {
            return 0;
        }
        self.others.push(new);
        self.settle();
        1
    }

    /// Lets go of what was found in a tree, which is to be closed.
    fn leave(&mut self, tree: u32) -> Vec<Arc<OwnedFd>> {
        if !self.is_in(tree) {
            return Vec::new();
        }
        let is_of_it = |found: &mut Found| found.belongs.tree == tree;
        let first = self.first.take_if(is_of_it);
        let others = self.others.extract_if(.., is_of_it);
        let gone = first.into_iter().chain(others);
        let gone = gone.map(|found| found.file).collect();
        self.settle();
        gone
    }

    /// Has the one to use be the first.
    fn settle(&mut self) {
        self.others.extend(self.first.take());
        self.others.sort_by_key(|found| found.belongs.rank());
        if !self.others.is_empty() {
            self.first = Some(self.others.remove(0));
        }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Inodes {
    slots: Slots<Inode>,
    known: HashMap<Key, u64>,
    /// How many files are open beside the first of each.
    more: usize,
}

impl Inodes {
    /// Only the root.
    pub fn new(mut root: Inode) -> Self {
        root.names = Names::Top;
        let mut slots = Slots::new();
        slots.insert(root);
        Self {
            slots,
            known: HashMap::new(),
            more: 0,
        }
    }

    /// How many files are open for them.
    pub fn len(&self) -> usize {
        self.slots.len() + self.more
    }

    /// By its number.
    pub fn get(&self, number: u64) -> Outcome<&Inode> {
        self.slots.get(number).ok_or(Errno::ESTALE)
    }

    /// Remembers that the guest was told of a file, and says by what number. `most` is how many
    /// files there may be.
    pub fn remember(&mut self, inode: Inode, most: usize) -> Outcome<u64> {
        let room = self.len() < most;
        match self.known.entry(inode.key) {
            Entry::Occupied(known) => {
                let number = *known.get();
                let known = self.slots.get_mut(number).ok_or(Errno::ESTALE)?;
                known.lookups = known.lookups.saturating_add(1);
                // Without room it is still the same file, by the trees that are known.
                if room {
                    self.more += known.merge(inode);
                }
                Ok(number)
            }
            Entry::Vacant(_) if !room => Err(Errno::ENFILE),
            Entry::Vacant(place) => {
                let number = self.slots.insert(inode).ok_or(Errno::ENFILE)?;
                Ok(*place.insert(number))
            }
        }
    }

    /// Remembers that the guest was told once more of a file that was come to in that tree before, and says
    /// by what number. `None` if there is no such file.
    pub fn remember_again(&mut self, key: &Key, tree: u32) -> Option<u64> {
        let number = *self.known.get(key)?;
        let known = self
            .slots
            .get_mut(number)
            .filter(|known| known.is_in(tree))?;
        known.lookups = known.lookups.saturating_add(1);
        Some(number)
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
        if inode.is_open() {
            self.more -= inode.others.len();
            self.known.remove(&inode.key);
        }
        Some(inode)
    }

    /// Lets go of all files of a tree, which are to be closed. Their numbers stay until the guest forgets
    /// them.
    pub fn close(&mut self, tree: u32) -> Vec<Arc<OwnedFd>> {
        let mut gone = Vec::new();
        for inode in self.slots.iter_mut() {
            let others = inode.others.len();
            let left = inode.leave(tree);
            if left.is_empty() {
                continue;
            }
            gone.extend(left);
            self.more -= others - inode.others.len();
            if !inode.is_open() {
                self.known.remove(&inode.key);
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
        self.more = 0;
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
            ..Belongs::TOP
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
    fn a_file_is_known_again_in_the_tree_that_it_was_come_to_in() {
        let mut inodes = Inodes::new(inode(0, 0));
        let number = inodes.remember(inode(7, 1), 9).expect("room");
        let (known, unknown) = (inode(7, 1).key, inode(8, 1).key);
        assert_eq!(inodes.remember_again(&known, 1), Some(number));
        assert_eq!(inodes.remember_again(&known, 2), None);
        assert_eq!(inodes.remember_again(&unknown, 1), None);
        inodes.forget(number, 1);
        inodes.get(number).expect("it was told of twice");
        inodes.forget(number, 1);
        assert_eq!(inodes.remember_again(&known, 1), None);
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
