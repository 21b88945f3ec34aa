//! The names at the top of what is shared, and the trees behind them.
//!
//! A tree's name is in the root, or in a directory of the root that stands for a filesystem of the
//! host's. The guest mounts such a directory as one filesystem. So what is in several of its trees, or
//! in a tree and in a part of it that is a tree of its own, is one file there: with one cache, one set
//! of locks, one end of a socket. Only trees without other mounts below are in such a directory.

use std::collections::HashMap;

use nix::errno::Errno;

use crate::fuse::Outcome;
use crate::tree::{Changes, Shown};

/// What is known of the tree that a file was come to by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// The tree's number; the root of all of them has 0, and so has a filesystem's directory.
    pub tree: u32,
    /// The number of the filesystem that its tree shares with others; 0 if it is a filesystem of its own.
    pub filesystem: u32,
    /// How it is shown.
    pub shown: Shown,
}

impl Belongs {
    /// To no tree.
    pub const TOP: Self = Self {
        tree: 0,
        filesystem: 0,
        shown: Shown {
            changes: Changes::Anybody,
            read_only: true,
            depth: 0,
        },
    };

    /// Which of two trees a file is rather used by: by one that can be written, and by the one that has
    /// more of the filesystem, so that two files have the same one if they can.
    pub fn rank(&self) -> (bool, u16) {
        (self.shown.read_only, self.shown.depth)
    }
}

/// What a directory's names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Of trees, and of filesystems: it is the root.
    Top,
    /// Of the trees of this filesystem.
    Filesystem(u32),
    /// Of files, or it is no directory.
    Files,
}

/// What a name at the top is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// The directory of a filesystem, by its number.
    Filesystem(u32),
    /// A tree.
    Tree(Belongs),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Trees {
    /// By their names: `tree`, or `filesystem/tree`.
    trees: HashMap<String, Belongs>,
    /// By their names.
    filesystems: HashMap<String, u32>,
    /// How many trees, and filesystems, there have been.
    last: u32,
}

impl Trees {
    /// A name is a tree from now on.
    pub fn add(&mut self, name: &str, shown: Shown) {
        let filesystem = match name.split_once('/') {
            None => 0,
            Some((filesystem, _)) => match self.filesystems.get(filesystem) {
                Some(number) => *number,
                None => {
                    let number = self.next();
                    self.filesystems.insert(filesystem.to_owned(), number);
                    number
                }
            },
        };
        let belongs = Belongs {
            tree: self.next(),
            filesystem,
            shown,
        };
        self.trees.insert(name.to_owned(), belongs);
    }

    /// A name is no tree any more. Says which one it was.
    pub fn remove(&mut self, name: &str) -> Option<u32> {
        let Belongs {
            tree, filesystem, ..
        } = self.trees.remove(name)?;
        if !self.trees.values().any(|one| one.filesystem == filesystem) {
            self.filesystems.retain(|_, number| *number != filesystem);
        }
        Some(tree)
    }

    /// Whether there is a tree with this number.
    pub fn has(&self, number: u32) -> bool {
        number == 0 || self.trees.values().any(|belongs| belongs.tree == number)
    }

    /// What a name in a directory at the top is.
    ///
    /// # Errors
    /// `ENOENT` if it is nothing.
    pub fn find(&self, directory: Names, name: &[u8]) -> Outcome<Top> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        if name.contains('/') {
            return Err(Errno::ENOENT);
        }
        let tree = match directory {
            Names::Files => None,
            Names::Top => {
                if let Some(number) = self.filesystems.get(name) {
                    return Ok(Top::Filesystem(*number));
                }
                self.trees.get(name)
            }
            Names::Filesystem(wanted) => {
                let of = |(one, number): (&String, &u32)| (*number == wanted).then(|| one.clone());
                let filesystem = self.filesystems.iter().find_map(of);
                filesystem.and_then(|filesystem| self.trees.get(&format!("{filesystem}/{name}")))
            }
        };
        tree.map(|belongs| Top::Tree(*belongs)).ok_or(Errno::ENOENT)
    }

    /// Whether some tree of a filesystem can be written.
    pub fn any_writable(&self, filesystem: u32) -> bool {
        let of_it = |one: &&Belongs| one.filesystem == filesystem;
        let mut trees = self.trees.values().filter(of_it);
        trees.any(|one| !one.shown.read_only)
    }

    fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(read_only: bool) -> Shown {
        Shown {
            changes: Changes::Anybody,
            read_only,
            depth: 1,
        }
    }

    #[test]
    fn a_filesystem_is_there_as_long_as_it_has_trees() {
        let mut trees = Trees::default();
        trees.add("agent", shown(true));
        trees.add("fs.1/a", shown(true));
        trees.add("fs.1/b", shown(false));
        let Ok(Top::Filesystem(number)) = trees.find(Names::Top, b"fs.1") else {
            panic!("{trees:?}");
        };
        let of = Names::Filesystem(number);
        let Ok(Top::Tree(a)) = trees.find(of, b"a") else {
            panic!("{trees:?}");
        };
        assert_eq!(a.filesystem, number);
        for (directory, name) in [
            (Names::Top, "a"),
            (Names::Top, "fs.1/a"),
            (of, "agent"),
            (of, "../agent"),
            (Names::Filesystem(number + 7), "a"),
            (Names::Files, "agent"),
        ] {
            let found = trees.find(directory, name.as_bytes());
            assert_eq!(found, Err(Errno::ENOENT), "{name}");
        }
        assert!(trees.any_writable(number));
        trees.remove("fs.1/b");
        assert!(!trees.any_writable(number));
        assert_eq!(trees.remove("fs.1/a"), Some(a.tree));
        assert_eq!(trees.find(Names::Top, b"fs.1"), Err(Errno::ENOENT));
        assert_eq!(trees.remove("fs.1/a"), None);
        trees.find(Names::Top, b"agent").expect("it is another");
    }
}
