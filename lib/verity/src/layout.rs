//! Where the blocks of a tree are.

use crate::{BLOCK, DIGESTS};

/// The most data blocks that a layout is made for: 4 PiB of data. All lengths in bytes are far from
/// what a file's offset can be.
pub const MOST_DATA_BLOCKS: u64 = 1 << 40;

/// Where the blocks of a tree are on a device that has data, superblock and tree, in this order.
///
/// The tree's levels lie behind each other, the one of a single block first. A device of one data block has
/// none: the root hash is that block's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    data_blocks: u64,
    /// The number of blocks of each level, from the one that has the digests of data.
    levels: Vec<u64>,
}

impl Layout {
    /// The layout for so many data blocks: at least one and at most [`MOST_DATA_BLOCKS`].
    #[must_use]
    pub fn new(data_blocks: u64) -> Option<Self> {
        if !(1..=MOST_DATA_BLOCKS).contains(&data_blocks) {
            return None;
        }
        let mut levels = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(DIGESTS as u64);
            levels.push(below);
        }
        Some(Self {
            data_blocks,
            levels,
        })
    }

    /// The layout for data of this length, the last block of which may be short.
    #[must_use]
    pub fn of_bytes(length: u64) -> Option<Self> {
        Self::new(length.div_ceil(BLOCK as u64))
    }

    /// The number of data blocks.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Where the superblock is, in bytes from the device's start.
    #[must_use]
    pub fn superblock_offset(&self) -> u64 {
        self.data_blocks * BLOCK as u64
    }

    /// The first block of the tree, from the device's start: what the kernel's target calls
    /// `hash_start_block`.
    #[must_use]
    pub fn tree_start(&self) -> u64 {
        self.data_blocks + 1
    }

    /// The number of blocks of the tree.
    #[must_use]
    pub fn tree_blocks(&self) -> u64 {
        self.levels.iter().sum()
    }

    /// The length of data, superblock and tree, in bytes.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        (self.tree_start() + self.tree_blocks()) * BLOCK as u64
    }

    /// How many levels the tree has.
    pub(crate) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The block of the device that is this one of a level; the level of data's digests is 0.
    pub(crate) fn block(&self, level: usize, index: u64) -> u64 {
        let above: u64 = self.levels.iter().skip(level + 1).sum();
        self.tree_start() + above + index
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_are_added_as_blocks_are() {
        for (data_blocks, tree) in [
            (1, 0),
            (2, 1),
            (128, 1),
            (129, 2 + 1),
            (128 * 128, 128 + 1),
            (128 * 128 + 1, 129 + 2 + 1),
        ] {
            let layout = Layout::new(data_blocks).expect("a layout");
            assert_eq!(layout.tree_blocks(), tree, "{data_blocks}");
            assert_eq!(
                layout.device_bytes(),
                (data_blocks + 1 + tree) * BLOCK as u64
            );
        }
        assert_eq!(Layout::new(0), None);
        assert_eq!(Layout::new(MOST_DATA_BLOCKS + 1), None);
        assert_eq!(Layout::of_bytes(u64::MAX), None);
        assert_eq!(Layout::of_bytes(4097), Layout::new(2));
    }

    proptest! {
        #[test]
        fn levels_lie_behind_each_other(data_blocks in 2..=MOST_DATA_BLOCKS) {
            let layout = Layout::new(data_blocks).expect("a layout");
            let mut next = layout.tree_start();
            for level in (0..layout.levels()).rev() {
                prop_assert_eq!(layout.block(level, 0), next);
                next += layout.levels[level];
            }
            prop_assert_eq!(next * BLOCK as u64, layout.device_bytes());
            prop_assert_eq!(layout.levels.last(), Some(&1));
        }
    }
}
