//! The volumes of a pod: which trees are shared for them, by which names, and for how many.
//!
//! All of one filesystem of the host's are in a directory that stands for it, so that in the guest they
//! are one filesystem, too; see [`crate::passthrough`]. What is the same directory or file, by whatever
//! path and for however many containers, is shared once.
//!
//! A file that is in two trees may be held by either. So a tree that nobody needs any more stays as long
//! as one that overlaps it is needed.

use crate::tree::{Shown, Tree};

use super::extent::Extent;

/// All that are shared.
#[derive(Debug, Default)]
pub struct Volumes {
    all: Vec<Volume>,
    /// The filesystems' devices and numbers.
    filesystems: Vec<(u64, u32)>,
    /// How many volumes, and filesystems, there have been.
    last: u32,
}

#[derive(Debug)]
struct Volume {
    name: String,
    tree: Tree,
    /// `None` of one that is a filesystem of its own in the guest.
    extent: Option<Extent>,
    users: u32,
}

impl Volume {
    fn is(&self, tree: &Tree, extent: Option<&Extent>) -> bool {
        match (&self.extent, extent) {
            (Some(one), Some(other)) => one == other && self.tree.read_only == tree.read_only,
            // What is mounted below may be something else by now; who has it sees what was.
            (None, None) => self.tree == *tree && self.users > 0,
            _ => false,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (&self.extent, &other.extent) {
            (Some(one), Some(other)) => one.overlaps(other),
            _ => false,
        }
    }
}

impl Volumes {
    /// Takes a volume into use that is shared already, and says its name.
    pub fn reuse(&mut self, tree: &Tree, extent: Option<&Extent>) -> Option<String> {
        let known = self.all.iter_mut().find(|one| one.is(tree, extent))?;
        known.users += 1;
        Some(known.name.clone())
    }

    /// A name for one that is not shared yet, and how it is to be shown. No name comes back.
    pub fn name(&mut self, tree: &Tree, extent: Option<&Extent>) -> (String, Shown) {
        self.last += 1;
        let volume = self.last;
        let name = match extent {
            None => format!("volume.{volume}"),
            Some(extent) => format!("filesystem.{}/volume.{volume}", self.filesystem(extent)),
        };
        let shown = Shown {
            changes: tree.changes,
            read_only: tree.read_only,
            depth: extent.map_or(0, Extent::depth),
        };
        (name, shown)
    }

    fn filesystem(&mut self, extent: &Extent) -> u32 {
        let known = self
            .filesystems
            .iter()
            .find(|(device, _)| *device == extent.device);
        match known {
            Some((_, number)) => *number,
            None => {
                self.last += 1;
                self.filesystems.push((extent.device, self.last));
                self.last
            }
        }
    }

    /// One that was named is shared now, and in use.
    pub fn add(&mut self, name: String, tree: Tree, extent: Option<Extent>) {
        self.all.push(Volume {
            name,
            tree,
            extent,
            users: 1,
        });
    }

    /// One user needs a volume no more.
    pub fn leave(&mut self, name: &str) {
        if let Some(known) = self.all.iter_mut().find(|one| one.name == name) {
            known.users = known.users.saturating_sub(1);
        }
    }

    /// The name of a volume that nobody needs, nor any that overlaps it.
    pub fn unneeded(&self) -> Option<String> {
        let needed = |volume: &Volume| volume.users > 0;
        let is_free = |volume: &&Volume| {
            !needed(volume)
                && !self
                    .all
                    .iter()
                    .any(|one| needed(one) && one.overlaps(volume))
        };
        self.all.iter().find(is_free).map(|one| one.name.clone())
    }

    /// One is not shared any more.
    pub fn remove(&mut self, name: &str) {
        self.all.retain(|one| one.name != name);
        let of = |device| {
            let mut extents = self.all.iter().filter_map(|one| one.extent.as_ref());
            extents.any(|extent| extent.device == device)
        };
        // The device's number may be another filesystem's by the next time.
        self.filesystems.retain(|(device, _)| of(*device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Changes, Source};

    fn tree(path: &str, read_only: bool) -> Tree {
        Tree {
            source: Source::Path {
                path: path.into(),
                submounts: true,
            },
            read_only,
            changes: Changes::Anybody,
        }
    }

    impl Volumes {
        fn shared(&mut self, path: &str, read_only: bool, extent: Option<Extent>) -> String {
            let tree = tree(path, read_only);
            self.reuse(&tree, extent.as_ref()).unwrap_or_else(|| {
                let (name, _) = self.name(&tree, extent.as_ref());
                self.add(name.clone(), tree, extent);
                name
            })
        }

        fn left(&mut self, name: &str) -> Vec<String> {
            self.leave(name);
            let next = || {
                let name = self.unneeded()?;
                self.remove(&name);
                Some(name)
            };
            std::iter::from_fn(next).collect()
        }
    }

    #[test]
    fn what_is_the_same_is_shared_once_and_no_name_comes_back() {
        let mut volumes = Volumes::default();
        let at = |path| Some(Extent::at(1, path));
        let first = volumes.shared("/a", false, at("/a"));
        assert_eq!(volumes.shared("/elsewhere", false, at("/a")), first);
        // A guest that may only read it can't be given what another may write.
        let read_only = volumes.shared("/a", true, at("/a"));
        assert_ne!(read_only, first);
        assert!(read_only.starts_with("filesystem."), "{read_only}");
        // Something else is at the path.
        let other = volumes.shared("/a", false, at("/b"));
        assert_ne!(other, first);
        assert_eq!(
            first.split_once('/').map(|(one, _)| one),
            other.split_once('/').map(|(one, _)| one)
        );
        assert_eq!(volumes.left(&other), std::slice::from_ref(&other));
        assert_ne!(volumes.shared("/a", false, at("/b")), other);
        let (a, b) = (
            volumes.shared("/a", false, None),
            volumes.shared("/a", false, None),
        );
        assert_eq!(a, b);
        assert!(!a.contains('/'), "{a}");
    }

    #[test]
    fn a_tree_stays_while_one_that_overlaps_it_is_needed() {
        let mut volumes = Volumes::default();
        let at = |path| Some(Extent::at(1, path));
        let whole = volumes.shared("/v", true, at("/v"));
        let part = volumes.shared("/s", false, at("/v/sub"));
        let beside = volumes.shared("/w", false, at("/w"));
        assert!(volumes.left(&whole).is_empty());
        assert_eq!(volumes.left(&beside), [beside]);
        assert_eq!(volumes.shared("/v", true, at("/v")), whole);
        assert!(volumes.left(&part).is_empty());
        let mut rest = volumes.left(&whole);
        rest.sort();
        let mut both = [whole, part];
        both.sort();
        assert_eq!(rest, both);
        assert!(volumes.filesystems.is_empty());
    }
}
