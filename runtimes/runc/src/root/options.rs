//! The options of a mount, as util-linux and runc know them.
//!
//! Source: mount(8), `docs/spec-conformance.md` and `parseMountOptions` of runc, and
//! `config.md#mounts` of the runtime specification. An option that nobody knows is the filesystem's:
//! what a bind mount has none of.

use nix::errno::Errno;

use super::propagation::Propagation;
use crate::setup::error::Failure;

/// Which attributes of a mount are to change, all those not named stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Of `MOUNT_ATTR_*`, without those for access times.
    pub(crate) set: u64,
    /// The same.
    pub(crate) clear: u64,
    /// How access times are kept: one of `MOUNT_ATTR__ATIME`.
    pub(crate) atime: Option<u64>,
}

impl Attributes {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Set(flag) => {
                self.set |= flag;
                self.clear &= !flag;
            }
            Change::Clear(flag) => {
                self.clear |= flag;
                self.set &= !flag;
            }
            Change::Atime(kind) => self.atime = Some(kind),
        }
    }

    /// These, and then those others.
    pub(crate) fn and(self, later: Self) -> Self {
        Self {
            set: (self.set & !later.clear) | later.set,
            clear: (self.clear & !later.set) | later.clear,
            atime: later.atime.or(self.atime),
        }
    }

    /// Whether nothing is to change.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether writing is to be forbidden.
    pub(crate) fn read_only(&self) -> bool {
        self.set & libc::MOUNT_ATTR_RDONLY != 0
    }

    /// What a new mount is made with.
    pub(crate) fn for_new(&self) -> u64 {
        self.set | self.atime.unwrap_or(libc::MOUNT_ATTR_RELATIME)
    }

    /// What is done to a mount that is there.
    pub(crate) fn change(&self) -> trefoil_os::detached::Change {
        let (atime, clear) = match self.atime {
            Some(kind) => (kind, libc::MOUNT_ATTR__ATIME),
            None => (0, 0),
        };
        trefoil_os::detached::Change {
            set: self.set | atime,
            clear: self.clear | clear,
            propagation: 0,
        }
    }
}

/// What is to be done, of a mount's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether it shows what is there already, and with the mounts below it.
    pub(crate) bind: Option<Bind>,
    /// Whether a mount that is there already is to change.
    pub(crate) remount: bool,
    /// Attributes of the mount itself.
    pub(crate) attributes: Attributes,
    /// Attributes of the mount and of all below it.
    pub(crate) recursive: Attributes,
    /// What becomes of later mounts below it, in this order.
    pub(crate) propagation: Vec<Propagation>,
    /// Whether its ids are to be mapped, and also those of the mounts below it.
    pub(crate) map_ids: Option<Bind>,
    /// Whether a tmpfs begins with what the directory below it holds.
    pub(crate) copy_up: bool,
    /// Flags of the filesystem that have the same name for every one: `sync`, `nolazytime`.
    pub(crate) superblock: Vec<&'static str>,
    /// Whether changes are to be counted, which only mount(2) can be told.
    pub(crate) count_versions: Option<bool>,
    /// All else, for the filesystem: `key`, or `key=value`.
    pub(crate) data: Vec<String>,
}

/// How much of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// One mount.
    One,
    /// And all below it.
    All,
}

#[derive(Clone, Copy)]
enum Change {
    Set(u64),
    Clear(u64),
    Atime(u64),
}

#[derive(Clone, Copy)]
enum Meaning {
    /// Of the mount.
    Attribute(Change),
    /// Of the mount and all below it.
    Recursive(Change),
    Propagation(Propagation),
    Bind(Bind),
    MapIds(Bind),
    Remount,
    CopyUp,
    /// Of the filesystem, by this name.
    Superblock(&'static str),
    Versions(bool),
    /// What is so anyway.
    Nothing,
}

use Change::{Atime, Clear, Set};
use Meaning::{Attribute, Nothing, Recursive, Superblock, Versions};

/// Every option that is understood, in the order of the alphabet.
const TABLE: [(&str, Meaning); 67] = [
    // This and "auto", "nofail" and the like fstab(5) says to mount(8), and not to the kernel.
    ("_netdev", Nothing),
    ("async", Superblock("async")),
    ("atime", Attribute(Atime(libc::MOUNT_ATTR_RELATIME))),
    ("auto", Nothing),
    ("bind", Meaning::Bind(Bind::One)),
    ("defaults", Nothing),
    ("dev", Attribute(Clear(libc::MOUNT_ATTR_NODEV))),
    ("diratime", Attribute(Clear(libc::MOUNT_ATTR_NODIRATIME))),
    ("dirsync", Superblock("dirsync")),
    ("exec", Attribute(Clear(libc::MOUNT_ATTR_NOEXEC))),
    ("idmap", Meaning::MapIds(Bind::One)),
    ("iversion", Versions(true)),
    ("lazytime", Superblock("lazytime")),
    // How much the kernel says in its log while mounting: it never says it to us.
    ("loud", Nothing),
    ("mand", Superblock("mand")),
    ("noatime", Attribute(Atime(libc::MOUNT_ATTR_NOATIME))),
    ("noauto", Nothing),
    ("nodev", Attribute(Set(libc::MOUNT_ATTR_NODEV))),
    ("nodiratime", Attribute(Set(libc::MOUNT_ATTR_NODIRATIME))),
    ("noexec", Attribute(Set(libc::MOUNT_ATTR_NOEXEC))),
    ("nofail", Nothing),
    ("noiversion", Versions(false)),
    ("nolazytime", Superblock("nolazytime")),
    ("nomand", Superblock("nomand")),
    // There are no mounts that keep none of the kinds of access times; so it always meant nothing.
    ("norelatime", Nothing),
    ("nostrictatime", Attribute(Atime(libc::MOUNT_ATTR_RELATIME))),
    ("nosuid", Attribute(Set(libc::MOUNT_ATTR_NOSUID))),
    ("nosymfollow", Attribute(Set(libc::MOUNT_ATTR_NOSYMFOLLOW))),
    ("nouser", Nothing),
    (
        "private",
        Meaning::Propagation(Propagation::new(libc::MS_PRIVATE, false)),
    ),
    ("ratime", Recursive(Atime(libc::MOUNT_ATTR_RELATIME))),
    ("rbind", Meaning::Bind(Bind::All)),
    ("rdev", Recursive(Clear(libc::MOUNT_ATTR_NODEV))),
    ("rdiratime", Recursive(Clear(libc::MOUNT_ATTR_NODIRATIME))),
    ("relatime", Attribute(Atime(libc::MOUNT_ATTR_RELATIME))),
    ("remount", Meaning::Remount),
    ("rexec", Recursive(Clear(libc::MOUNT_ATTR_NOEXEC))),
    ("ridmap", Meaning::MapIds(Bind::All)),
    ("rnoatime", Recursive(Atime(libc::MOUNT_ATTR_NOATIME))),
    ("rnodev", Recursive(Set(libc::MOUNT_ATTR_NODEV))),
    ("rnodiratime", Recursive(Set(libc::MOUNT_ATTR_NODIRATIME))),
    ("rnoexec", Recursive(Set(libc::MOUNT_ATTR_NOEXEC))),
    // The recursive ones do what runc does: there is nothing else left to be.
    ("rnorelatime", Recursive(Atime(libc::MOUNT_ATTR_RELATIME))),
    (
        "rnostrictatime",
        Recursive(Atime(libc::MOUNT_ATTR_RELATIME)),
    ),
    ("rnosuid", Recursive(Set(libc::MOUNT_ATTR_NOSUID))),
    ("rnosymfollow", Recursive(Set(libc::MOUNT_ATTR_NOSYMFOLLOW))),
    ("ro", Attribute(Set(libc::MOUNT_ATTR_RDONLY))),
    (
        "rprivate",
        Meaning::Propagation(Propagation::new(libc::MS_PRIVATE, true)),
    ),
    ("rrelatime", Recursive(Atime(libc::MOUNT_ATTR_RELATIME))),
    ("rro", Recursive(Set(libc::MOUNT_ATTR_RDONLY))),
    ("rrw", Recursive(Clear(libc::MOUNT_ATTR_RDONLY))),
    (
        "rshared",
        Meaning::Propagation(Propagation::new(libc::MS_SHARED, true)),
    ),
    (
        "rslave",
        Meaning::Propagation(Propagation::new(libc::MS_SLAVE, true)),
    ),
    (
        "rstrictatime",
        Recursive(Atime(libc::MOUNT_ATTR_STRICTATIME)),
    ),
    ("rsuid", Recursive(Clear(libc::MOUNT_ATTR_NOSUID))),
    ("rsymfollow", Recursive(Clear(libc::MOUNT_ATTR_NOSYMFOLLOW))),
    (
        "runbindable",
        Meaning::Propagation(Propagation::new(libc::MS_UNBINDABLE, true)),
    ),
    ("rw", Attribute(Clear(libc::MOUNT_ATTR_RDONLY))),
    (
        "shared",
        Meaning::Propagation(Propagation::new(libc::MS_SHARED, false)),
    ),
    ("silent", Nothing),
    (
        "slave",
        Meaning::Propagation(Propagation::new(libc::MS_SLAVE, false)),
    ),
    (
        "strictatime",
        Attribute(Atime(libc::MOUNT_ATTR_STRICTATIME)),
    ),
    ("suid", Attribute(Clear(libc::MOUNT_ATTR_NOSUID))),
    ("symfollow", Attribute(Clear(libc::MOUNT_ATTR_NOSYMFOLLOW))),
    ("sync", Superblock("sync")),
    ("tmpcopyup", Meaning::CopyUp),
    (
        "unbindable",
        Meaning::Propagation(Propagation::new(libc::MS_UNBINDABLE, false)),
    ),
];

/// The names of all options that are understood for themselves, in the order of the alphabet: what the
/// `features` document calls `mountOptions`.
pub(crate) const NAMES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut index = 0;
    while index < TABLE.len() {
        names[index] = TABLE[index].0;
        index += 1;
    }
    names
};

impl Options {
    /// Reads them. What comes later counts.
    ///
    /// # Errors
    /// If one of them can be no option at all.
    pub(crate) fn parse(given: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        for option in given {
            if option.contains('\0') {
                return Err(Failure::new(format!(
                    "cannot read the option {option:?}: {}",
                    crate::setup::error::reason(Errno::EINVAL)
                )));
            }
            match TABLE.iter().find(|(name, _)| name == option) {
                Some((_, meaning)) => options.take(*meaning),
                None if option.is_empty() => {}
                None => options.data.push(option.clone()),
            }
        }
        Ok(options)
    }

    fn take(&mut self, meaning: Meaning) {
        match meaning {
            Attribute(change) => self.attributes.apply(change),
            Recursive(change) => self.recursive.apply(change),
            Meaning::Propagation(one) => self.propagation.push(one),
            Meaning::Bind(depth) => self.bind = Some(more(self.bind, depth)),
            Meaning::MapIds(depth) => self.map_ids = Some(more(self.map_ids, depth)),
            Meaning::Remount => self.remount = true,
            Meaning::CopyUp => self.copy_up = true,
            Superblock(name) => self.superblock.push(name),
            Versions(whether) => self.count_versions = Some(whether),
            Nothing => {}
        }
    }

    /// The value of the filesystem's option `key`, the last one given.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.data.iter().rev().find_map(|option| {
            let (name, value) = option.split_once('=')?;
            (name == key).then_some(value)
        })
    }
}

fn more(before: Option<Bind>, now: Bind) -> Bind {
    match before {
        Some(Bind::All) => Bind::All,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        Options::parse(&options).unwrap()
    }

    #[test]
    fn every_name_is_understood_and_found_once() {
        for name in NAMES {
            assert!(parse(&[name]).data.is_empty(), "{name}");
        }
        assert!(NAMES.is_sorted());
        let mut names = NAMES.to_vec();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    #[test]
    fn what_comes_later_counts() {
        let options = parse(&[
            "ro",
            "nosuid",
            "rw",
            "noatime",
            "strictatime",
            "suid",
            "nosuid",
        ]);
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.attributes.clear, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(options.attributes.atime, Some(libc::MOUNT_ATTR_STRICTATIME));
        let change = options.attributes.change();
        assert_eq!(
            change.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(
            change.clear,
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME
        );
    }

    #[test]
    fn what_is_not_named_stays() {
        let options = parse(&["rbind", "rro"]);
        assert!(options.attributes.is_empty());
        assert_eq!(options.recursive.change().set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(options.recursive.change().clear, 0);
        assert_eq!(options.bind, Some(Bind::All));
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(Bind::All));
    }

    #[test]
    fn the_filesystem_gets_the_rest() {
        let options = parse(&["mode=755", "size=1m", "", "mode=700", "acl", "sync"]);
        assert_eq!(options.data, ["mode=755", "size=1m", "mode=700", "acl"]);
        assert_eq!(options.value("mode"), Some("700"));
        assert_eq!(options.value("acl"), None);
        assert_eq!(options.superblock, ["sync"]);
    }

    #[test]
    fn every_attribute_has_an_inverse() {
        for (set, clear) in [
            ("ro", "rw"),
            ("nosuid", "suid"),
            ("nodev", "dev"),
            ("noexec", "exec"),
            ("nodiratime", "diratime"),
            ("nosymfollow", "symfollow"),
        ] {
            let there = parse(&[set]).attributes;
            let back = parse(&[clear]).attributes;
            assert_eq!((there.set, there.clear), (back.clear, back.set), "{set}");
            assert_ne!(there.set, 0, "{set}");
            let recursive = parse(&[&format!("r{set}")]).recursive;
            assert_eq!(recursive, there, "{set}");
            let recursive = parse(&[&format!("r{clear}")]).recursive;
            assert_eq!(recursive, back, "{clear}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(given: Vec<String>) {
            let _ = Options::parse(&given);
        }

        #[test]
        fn none_is_lost(
            given in prop::collection::vec(prop::sample::select(NAMES.to_vec()), 0..8),
            key in "[a-z]{1,8}=[^\0]{0,300}",
        ) {
            let mut options: Vec<_> = given.iter().map(ToString::to_string).collect();
            options.push(key.clone());
            prop_assert_eq!(Options::parse(&options).unwrap().data, [key]);
        }
    }
}
