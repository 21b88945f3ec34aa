//! Checking data against a root hash, as the kernel does it.

use std::io;

use crate::tree::Hasher;
use crate::{BLOCK, Block, DIGEST, DIGESTS, Layout, RootHash, Salt};

/// Why a data block is not the one that a root hash is for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Mismatch {
    #[error("block {0} does not match the root hash")]
    Data(u64),
    #[error("block {0}, which is one of the hash tree, does not match the root hash")]
    Tree(u64),
    #[error("there are only {0} data blocks")]
    Beyond(u64),
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// Reads blocks of a device, and checks them.
pub struct Checker<'a, R> {
    layout: &'a Layout,
    root: RootHash,
    hasher: Hasher,
    read: R,
    /// The block of each level that was checked last, by its number in the level.
    checked: Vec<Option<(u64, Box<Block>)>>,
}

impl<'a, R: FnMut(u64, &mut Block) -> io::Result<()>> Checker<'a, R> {
    /// A checker of the device that `read` reads blocks of: data, superblock and tree.
    pub fn new(layout: &'a Layout, salt: &Salt, root: RootHash, read: R) -> Self {
        Self {
            layout,
            root,
            hasher: Hasher::new(salt),
            read,
            checked: vec![None; layout.levels()],
        }
    }

    /// Checks a data block, and what of the tree is between it and the root hash.
    ///
    /// # Errors
    /// If it is another than the root hash is for, or can't be read.
    pub fn block(&mut self, number: u64) -> Result<(), Mismatch> {
        if number >= self.layout.data_blocks() {
            return Err(Mismatch::Beyond(self.layout.data_blocks()));
        }
        let mut block = [0; BLOCK];
        (self.read)(number, &mut block)?;
        match self.digest_of(0, number)? == self.hasher.digest(&block) {
            true => Ok(()),
            false => Err(Mismatch::Data(number)),
        }
    }

    /// Checks all data, and with it all of the tree.
    ///
    /// # Errors
    /// As [`Self::block`], for the first block that they are about.
    pub fn all(&mut self) -> Result<(), Mismatch> {
        (0..self.layout.data_blocks()).try_for_each(|number| self.block(number))
    }

    /// What a level says the digest of a block below it is.
    fn digest_of(&mut self, level: usize, below: u64) -> Result<[u8; DIGEST], Mismatch> {
        if level == self.layout.levels() {
            return Ok(*self.root.bytes());
        }
        let (index, entry) = (below / DIGESTS as u64, below as usize % DIGESTS);
        let known = self.checked[level].take();
        let block = match known {
            Some((known, block)) if known == index => block,
            _ => self.tree_block(level, index)?,
        };
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&block[entry * DIGEST..][..DIGEST]);
        self.checked[level] = Some((index, block));
        Ok(digest)
    }

    fn tree_block(&mut self, level: usize, index: u64) -> Result<Box<Block>, Mismatch> {
        let number = self.layout.block(level, index);
        let mut block = Box::new([0; BLOCK]);
        (self.read)(number, &mut block)?;
        match self.digest_of(level + 1, index)? == self.hasher.digest(&*block) {
            true => Ok(block),
            false => Err(Mismatch::Tree(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{data, device};

    fn reader(device: &[u8]) -> impl FnMut(u64, &mut Block) -> io::Result<()> {
        move |number, block| {
            let at = usize::try_from(number).map_err(io::Error::other)? * BLOCK;
            let bytes = device.get(at..at + BLOCK);
            block.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    #[test]
    fn what_was_made_is_right() {
        let salt = Salt::of_layers();
        for blocks in [1, 2, 128, 129, 300] {
            let (device, root, layout) = device(&data(blocks * BLOCK), &salt);
            let mut checker = Checker::new(&layout, &salt, root, reader(&device));
            checker.all().expect("right");
            checker.block(0).expect("again, and not in order");
            let why = checker.block(blocks as u64).expect_err("beyond");
            assert!(matches!(why, Mismatch::Beyond(_)), "{why}");
        }
    }

    #[test]
    fn with_another_number_of_blocks_the_root_hash_is_of_the_tree() {
        // Two levels: taken for a tree of one level, what was its first level is its data.
        let salt = Salt::of_layers();
        let (device, root, layout) = device(&data(200 * BLOCK), &salt);
        let shorter = Layout::new(2).expect("a layout");
        let moved = |number: u64, block: &mut Block| match number {
            0 | 1 => reader(&device)(layout.block(0, number), block),
            _ => reader(&device)(layout.block(1, 0), block),
        };
        Checker::new(&shorter, &salt, root, moved)
            .all()
            .expect("which is why the number is told with the hash");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_bit_is_found(blocks in 1_usize..300, at: prop::sample::Index, bit in 0_u8..8) {
            let salt = Salt::of_layers();
            let (mut device, root, layout) = device(&data(blocks * BLOCK), &salt);
            let at = at.index(device.len());
            device[at] ^= 1 << bit;
            let outcome = Checker::new(&layout, &salt, root, reader(&device)).all();
            let number = (at / BLOCK) as u64;
            match outcome {
                // The superblock is nobody's: where the tree is follows from the number of data blocks.
                Ok(()) => prop_assert_eq!(number, layout.data_blocks()),
                Err(Mismatch::Data(found) | Mismatch::Tree(found)) => prop_assert_eq!(found, number),
                Err(why) => prop_assert!(false, "{}", why),
            }
        }

        #[test]
        fn a_device_that_ends_early_is_not_right(blocks in 2_usize..300, missing in 1_usize..10) {
            let salt = Salt::of_layers();
            let (device, root, layout) = device(&data(blocks * BLOCK), &salt);
            let short = &device[..device.len() - missing];
            let outcome = Checker::new(&layout, &salt, root, reader(short)).all();
            prop_assert!(matches!(outcome, Err(Mismatch::Read(_))));
        }
    }
}
