//! What kinds of filesystems there are, as far as it matters to their files' content.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use nix::sys::statfs::fstatfs;

use crate::fuse::Outcome;

/// What is known of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its files are made while they are read. The size they say, most often zero, says nothing, nor is
    /// what was read once there the next time.
    pub made_up: bool,
    /// It waits for nobody but the kernel and the node's own disks: no server and no daemon answers
    /// for it.
    pub local: bool,
}

/// Those whose files are made while they are read, by the `f_type` that `statfs` tells: see
/// `include/uapi/linux/magic.h`, and each filesystem's source.
const MADE_UP: &[u32] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x6165_676c, // pstore
    0xcafe_4a11, // bpf
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0xde5e_81e4, // efivarfs
    0x6e73_6673, // nsfs
    0x4249_4e4d, // binfmt_misc
    0x0765_5821, // resctrl
    0x6573_5543, // fusectl
    0x1980_0202, // mqueue
    0x6e66_7364, // nfsd
    0xabba_1974, // xenfs
    0x9fa1,      // openpromfs
];

/// Those of the node's own, beside the ones above. An overlay's layers are seldom others.
const LOCAL: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
    0x794c_7630, // overlay
    0xe0f5_e1e2, // erofs
    0x7371_7368, // squashfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // zfs
    0x4d44,      // vfat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
    0x9660,      // iso9660
    0x1501_3346, // udf
    0x3153_464a, // jfs
    0x3434,      // nilfs2
    0x1cd1,      // devpts
];

impl Kind {
    /// Where it does not matter.
    pub const PLAIN: Self = Self {
        made_up: false,
        local: true,
    };

    /// What is read of its files, and written, goes through a buffer of ours instead of between file and
    /// guest. A file that is made while it is read is told in one piece, and taken in one piece what is
    /// written: the guest's buffers are several. And where a request may have to be given up, nothing
    /// may come into the guest's memory after that.
    pub const fn apart(self) -> bool {
        self.made_up || !self.local
    }

    /// By what `statfs` calls its type.
    const fn of_type(number: u32) -> Self {
        let made_up = contains(MADE_UP, number);
        Self {
            made_up,
            local: made_up || contains(LOCAL, number),
        }
    }
}

const fn contains(mut list: &[u32], number: u32) -> bool {
    while let [first, rest @ ..] = list {
        if *first == number {
            return true;
        }
        list = rest;
    }
    false
}

/// Kinds by filesystems' numbers, which are asked for once. A number may become another
/// filesystem's once a tree is gone: then all is forgotten of which nothing is known any more.
#[derive(Debug, Default)]
pub struct Kinds(HashMap<u64, Kind>);

impl Kinds {
    /// What is known already of a filesystem, by its number.
    pub fn known(&self, device: u64) -> Option<Kind> {
        self.0.get(&device).copied()
    }

    /// Remembers it.
    pub fn learn(&mut self, device: u64, kind: Kind) {
        self.0.insert(device, kind);
    }

    /// A tree has gone: what is left are these.
    pub fn keep(&mut self, devices: &HashSet<u64>) {
        self.0.retain(|device, _| devices.contains(device));
    }
}

/// Asks for the kind of a file's filesystem; which may have to be asked in turn.
pub fn ask(file: impl AsFd) -> Outcome<Kind> {
    let found = fstatfs(file)?.filesystem_type().0;
    // Where it is a signed number, it is one of 32 bits.
    Ok(Kind::of_type(found as u32))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn no_filesystem_is_named_twice() {
        let mut all = [MADE_UP, LOCAL].concat();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn this_machines_filesystems_are_what_they_are() {
        let kind = |path: &str| ask(File::open(path).expect(path)).expect(path);
        for path in ["/proc/self/status", "/sys/kernel/uevent_seqnum"] {
            let expected = Kind {
                made_up: true,
                local: true,
            };
            assert_eq!(kind(path), expected, "{path}");
        }
        let directory = tempfile::tempdir().expect("directory");
        let kind = ask(File::open(directory.path()).expect("open")).expect("ask");
        assert!(kind.local && !kind.made_up, "{kind:?}");
        // FUSE, NFS, SMB, 9p, Ceph and what nobody knows.
        for number in [
            0x6573_5546,
            0x6969,
            0xff53_4d42,
            0x0102_1997,
            0x00c3_6400,
            7,
        ] {
            assert!(!Kind::of_type(number).local, "{number:x}");
        }
    }
}
