//! Making an ext4 filesystem by writing the few blocks that the kernel reads of one that is new.
//!
//! What was never written to an encrypted disk can't be read, so that nothing may have to be. Block groups are
//! marked as not initialised: the kernel reads no bitmap of such. An inode fills a block: of several in one, the
//! kernel reads the block before it writes the first if the second is being made meanwhile. Directories have
//! an index: those without are read ahead, whatever lies behind them on the disk. There is no journal, since
//! nobody mounts the filesystem a second time, and no copy of the superblock. So it takes seven blocks or so,
//! whatever the size.
//!
//! The format: `Documentation/filesystems/ext4/` of Linux's.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use trefoil_core::{Context, Error, Result};

/// How such a filesystem is mounted: the kernel is not to touch what it has no need of yet. What is left in
/// its caches at the end is nobody's any more.
pub(super) const OPTIONS: [&str; 5] = [
    "noinit_itable",
    "inode_readahead_blks=0",
    "no_prefetch_block_bitmaps",
    "nobarrier",
    "errors=remount-ro",
];

/// In bytes.
const BLOCK: usize = 4096;

/// As many as a block of bits can tell of.
const BLOCKS_PER_GROUP: u32 = BLOCK as u32 * 8;
/// One for each 32 KiB, and for each a block.
const INODES_PER_GROUP: u32 = BLOCKS_PER_GROUP / 8;
/// What a group has of its own: two bitmaps and the inodes.
const OWN: u32 = 2 + INODES_PER_GROUP;
/// A group that has less room for data is left out.
const LEAST_DATA: u32 = 64;

/// How long a group's descriptor is.
const DESCRIPTOR: usize = 32;
const DESCRIPTORS_PER_BLOCK: u32 = (BLOCK / DESCRIPTOR) as u32;

/// A filesystem has from so many to so many bytes.
pub(super) const LEAST: u64 = 32 << 20;
pub(super) const MOST: u64 = 1 << 40;

/// Inodes below are the filesystem's own.
const FIRST_INODE: u32 = 11;
const ROOT: u32 = 2;

/// Where in its block the superblock is.
const SUPERBLOCK: usize = 1024;

/// Attributes, directories with an index, copies of the superblock where it says: nowhere.
const COMPATIBLE: u32 = 0x8 | 0x20 | 0x200;
/// Types in directories, extents.
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// Large files, huge files, descriptors with a sum, directories of many others, larger inodes.
const READ_ONLY_COMPATIBLE: u32 = 0x2 | 0x8 | 0x10 | 0x20 | 0x40;

const INODES_NOT_INITIALISED: u16 = 1;
const BLOCKS_NOT_INITIALISED: u16 = 2;

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    blocks: u32,
    groups: u32,
    /// How many blocks the descriptors take.
    descriptors: u32,
}

impl Layout {
    fn of(size: u64) -> Result<Self> {
        if !(LEAST..=MOST).contains(&size) {
            return Err(Error::precondition(format!(
                "a filesystem can't have {size} bytes, but from {LEAST} to {MOST}"
            )));
        }
        let all = u32::try_from(size / BLOCK as u64)
            .map_err(|_| Error::internal("a size within bounds is not within bounds"))?;
        let rest = all % BLOCKS_PER_GROUP;
        let is_too_small = all > BLOCKS_PER_GROUP && rest < OWN + LEAST_DATA;
        let blocks = if is_too_small { all - rest } else { all };
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        Ok(Self {
            blocks,
            groups,
            descriptors: groups.div_ceil(DESCRIPTORS_PER_BLOCK),
        })
    }

    /// How many blocks a group has.
    fn blocks_of(self, group: u32) -> u32 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// Where what a group has of its own begins. In the first it is behind the superblock and all descriptors.
    fn own(self, group: u32) -> u32 {
        match group {
            0 => 1 + self.descriptors,
            _ => group * BLOCKS_PER_GROUP,
        }
    }

    /// The group that has less blocks than others, if it is not the first. Its blocks are told of, as mkfs does.
    fn partial(self) -> Option<u32> {
        let last = self.groups - 1;
        (last > 0 && self.blocks_of(last) < BLOCKS_PER_GROUP).then_some(last)
    }

    /// The root directory's block, which is the last that is taken.
    fn root(self) -> u32 {
        self.own(0) + OWN
    }

    fn free_of(self, group: u32) -> u32 {
        match group {
            0 => self.blocks_of(0) - self.root() - 1,
            _ => self.blocks_of(group) - OWN,
        }
    }
}

/// Makes a filesystem of a size in bytes, with nothing in it. Random bytes are what its directories are hashed
/// by. It is there once the device is closed.
///
/// # Errors
/// If it can't be of that size; what the kernel says.
pub(super) fn format(device: &File, size: u64, random: [u8; 16]) -> Result<()> {
    let layout = Layout::of(size)?;
    let own = u64::from(layout.own(0));
    let write = |bytes: &[u8], block: u64| {
        device
            .write_all_at(bytes, block * BLOCK as u64)
            .context(|| format!("write block {block} of a filesystem"))
    };
    write(&superblock(layout, random), 0)?;
    write(&descriptors(layout), 1)?;
    write(&block_bitmap(layout, 0), own)?;
    write(&inode_bitmap(), own + 1)?;
    write(&root_inode(layout), own + 2 + u64::from(ROOT - 1))?;
    if let Some(last) = layout.partial() {
        write(&block_bitmap(layout, last), layout.own(last).into())?;
    }
    write(&root_directory(), layout.root().into())
}

/// Fields at their places.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    fn long(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn short(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }
}

/// What the sums of descriptors begin with. Nothing finds the filesystem by it.
const UUID: [u8; 16] = *b"trefoil-scratch\0";

fn superblock(layout: Layout, random: [u8; 16]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut fields = Fields(&mut block[SUPERBLOCK..]);
    let inodes = layout.groups * INODES_PER_GROUP;
    let free: u32 = (0..layout.groups).map(|group| layout.free_of(group)).sum();
    for (at, value) in [
        (0x00, inodes),
        (0x04, layout.blocks),
        (0x0c, free),
        (0x10, inodes - (FIRST_INODE - 1)),
        // Blocks and clusters of 1024 bytes, times two twice.
        (0x18, 2),
        (0x1c, 2),
        (0x20, BLOCKS_PER_GROUP),
        (0x24, BLOCKS_PER_GROUP),
        (0x28, INODES_PER_GROUP),
        // The second revision, with features.
        (0x4c, 1),
        (0x54, FIRST_INODE),
        (0x5c, COMPATIBLE),
        (0x60, INCOMPATIBLE),
        (0x64, READ_ONLY_COMPATIBLE),
        // Attributes of users and access lists.
        (0x100, 0xc),
        // Directories' hashes are of signed characters.
        (0x160, 1),
    ] {
        fields.long(at, value);
    }
    for (at, value) in [
        // Never to be checked because of its age.
        (0x36, u16::MAX),
        (0x38, 0xef53),
        // It is whole, and read-only once it is not.
        (0x3a, 1),
        (0x3c, 2),
        (0x58, BLOCK as u16),
        (0x15c, 32),
        (0x15e, 32),
    ] {
        fields.short(at, value);
    }
    fields.bytes(0x68, &UUID);
    fields.bytes(0xec, &random);
    // Half MD4.
    fields.bytes(0xfc, &[1]);
    block
}

fn descriptors(layout: Layout) -> Vec<u8> {
    let mut all = vec![0; layout.descriptors as usize * BLOCK];
    for (group, descriptor) in (0..layout.groups).zip(all.chunks_exact_mut(DESCRIPTOR)) {
        let (free_inodes, directories, flags) = match group {
            0 => (INODES_PER_GROUP - (FIRST_INODE - 1), 1, 0),
            _ if layout.partial() == Some(group) => (INODES_PER_GROUP, 0, INODES_NOT_INITIALISED),
            _ => {
                let flags = INODES_NOT_INITIALISED | BLOCKS_NOT_INITIALISED;
                (INODES_PER_GROUP, 0, flags)
            }
        };
        let own = layout.own(group);
        let mut fields = Fields(descriptor);
        fields.long(0x00, own);
        fields.long(0x04, own + 1);
        fields.long(0x08, own + 2);
        fields.short(0x0c, layout.free_of(group) as u16);
        fields.short(0x0e, free_inodes as u16);
        fields.short(0x10, directories);
        fields.short(0x12, flags);
        // Inodes from its end on were never used.
        fields.short(0x1c, free_inodes as u16);
        let (told, sum) = descriptor.split_at_mut(0x1e);
        let number = group.to_le_bytes();
        let crc = [UUID.as_slice(), &number, told].concat();
        sum.copy_from_slice(&crc16(&crc).to_le_bytes());
    }
    all
}

/// What is taken of a group's blocks; those behind its end are.
fn block_bitmap(layout: Layout, group: u32) -> [u8; BLOCK] {
    let mut bitmap = [0; BLOCK];
    let blocks = layout.blocks_of(group);
    set(&mut bitmap, 0..blocks - layout.free_of(group));
    set(&mut bitmap, blocks..BLOCKS_PER_GROUP);
    bitmap
}

/// That of the first group.
fn inode_bitmap() -> [u8; BLOCK] {
    let mut bitmap = [0; BLOCK];
    set(&mut bitmap, 0..FIRST_INODE - 1);
    set(&mut bitmap, INODES_PER_GROUP..BLOCKS_PER_GROUP);
    bitmap
}

fn set(bitmap: &mut [u8; BLOCK], bits: Range<u32>) {
    for bit in bits {
        if let Some(byte) = bitmap.get_mut(bit as usize / 8) {
            *byte |= 1 << (bit % 8);
        }
    }
}

/// The root directory's.
fn root_inode(layout: Layout) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut fields = Fields(&mut block);
    fields.short(0x00, (libc::S_IFDIR | 0o755) as u16);
    fields.long(0x04, BLOCK as u32);
    // Its own entry and the one above.
    fields.short(0x1a, 2);
    // In sectors.
    fields.long(0x1c, BLOCK as u32 / 512);
    // What follows are extents: one of four, of one block.
    fields.long(0x20, 0x80000);
    fields.short(0x28, 0xf30a);
    fields.short(0x2a, 1);
    fields.short(0x2c, 4);
    fields.short(0x38, 1);
    fields.long(0x3c, layout.root());
    fields.short(0x80, 32);
    block
}

fn root_directory() -> [u8; BLOCK] {
    const DIRECTORY: u8 = 2;
    let mut block = [0; BLOCK];
    let mut fields = Fields(&mut block);
    let mut at = 0;
    for (name, length) in [(".", 12), ("..", BLOCK - 12)] {
        fields.long(at, ROOT);
        fields.short(at + 4, length as u16);
        fields.bytes(at + 6, &[name.len() as u8, DIRECTORY]);
        fields.bytes(at + 8, name.as_bytes());
        at += length;
    }
    block
}

/// CRC-16 as in the kernel's `crc16`, from all ones on.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(u16::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ 0xa001,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// What a program of e2fsprogs' says of an image, if it is content with it.
    fn asked(program: &str, arguments: &[&str], image: &Path) -> String {
        // Where Debian has them, which is not in everybody's path.
        let output = Command::new(format!("/usr/sbin/{program}"))
            .args(arguments)
            .arg(image)
            .env("LC_ALL", "C")
            .output()
            .expect("e2fsprogs are installed");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        said
    }

    /// The one thing that it wants and the kernel does not.
    fn make_lost_and_found(image: &Path) {
        let said = asked("debugfs", &["-w", "-R", "mkdir lost+found"], image);
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn a_filesystem_is_what_e2fsck_takes_for_one() {
        let group = u64::from(BLOCKS_PER_GROUP) * BLOCK as u64;
        for size in [
            LEAST,
            group,
            group + 1,
            // A last group that is too small, and one that just is not.
            group + u64::from(OWN + LEAST_DATA - 1) * BLOCK as u64,
            2 * group + u64::from(OWN + LEAST_DATA) * BLOCK as u64,
            8 << 30,
            // More descriptors than a block has.
            20 << 30,
        ] {
            let image = tempfile::NamedTempFile::new().expect("a file");
            image.as_file().set_len(size).expect("its length");
            format(image.as_file(), size, [7; 16]).expect("a filesystem");
            make_lost_and_found(image.path());
            let said = asked("e2fsck", &["-f", "-n"], image.path());
            assert!(said.contains("11/"), "{size}: {said}");
        }
    }

    #[test]
    fn it_takes_a_few_blocks() {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(8 << 30).expect("its length");
        format(image.as_file(), 8 << 30, [7; 16]).expect("a filesystem");
        let taken = image.path().metadata().expect("it is there").blocks() * 512;
        assert!(taken <= 64 << 10, "{taken} bytes are taken");
    }

    #[test]
    fn the_kernel_is_told_of_an_inode_in_each_block_and_nothing_to_read() {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(1 << 30).expect("its length");
        format(image.as_file(), 1 << 30, [7; 16]).expect("a filesystem");
        let said = asked("dumpe2fs", &[], image.path());
        let field = |name: &str| {
            let mut lines = said.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().map(str::trim).expect(name).to_owned()
        };
        assert_eq!(field("Block size:"), field("Inode size:"));
        let features = field("Filesystem features:");
        assert!(features.contains("dir_index"), "{features}");
        assert!(!features.contains("has_journal"), "{features}");
        // All groups but the first.
        assert_eq!(
            said.matches("INODE_UNINIT, BLOCK_UNINIT").count(),
            7,
            "{said}"
        );
    }

    #[test]
    fn what_can_be_no_filesystem_is_refused() {
        for size in [0, LEAST - 1, MOST + 1, u64::MAX] {
            let why = Layout::of(size).expect_err("no filesystem").to_string();
            assert!(why.contains(&size.to_string()), "{why}");
        }
        let all = Layout::of(MOST).expect("a filesystem");
        assert_eq!((all.groups, all.descriptors), (8192, 64));
    }
}
