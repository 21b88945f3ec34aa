//! Making a tree, from data that is read once.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::{BLOCK, Block, DIGEST, DIGESTS, Layout, RootHash, Salt};

/// How much is read at once.
const CHUNK: usize = 64 * BLOCK;

/// Digests of blocks: the salt comes first, as in version 1 of the format.
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub fn new(salt: &Salt) -> Self {
        Self(Sha256::new_with_prefix(salt.bytes()))
    }

    pub fn digest(&self, block: &[u8]) -> [u8; DIGEST] {
        self.0.clone().chain_update(block).finalize().into()
    }
}

/// A level's block that is being filled.
struct Filling {
    block: Box<Block>,
    digests: usize,
    /// How many are full.
    done: u64,
}

/// Makes the tree of the data of a layout, and hands each of its blocks to `write`, with its place on the
/// device, in no particular order. Data that ends within the last block is filled up with zeros.
///
/// Of the tree there is one block of each level in memory.
///
/// # Errors
/// Those of `data` and `write`; [`io::ErrorKind::UnexpectedEof`] if data ends before the last block.
pub fn build(
    data: impl Read,
    layout: &Layout,
    salt: &Salt,
    write: impl FnMut(u64, &Block) -> io::Result<()>,
) -> io::Result<RootHash> {
    let mut tree = Builder::new(layout, salt, write);
    read_blocks(data, layout.data_blocks(), |block| {
        let digest = tree.hasher.digest(block);
        tree.add(digest)
    })?;
    tree.finish()
}

/// Calls `each` with so many blocks.
fn read_blocks(
    mut data: impl Read,
    blocks: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = blocks;
    while left > 0 {
        let wanted = left.min((CHUNK / BLOCK) as u64);
        let bytes = &mut chunk[..wanted as usize * BLOCK];
        let read = read_up_to(&mut data, bytes)?;
        let at_the_end = wanted == left && read + BLOCK > bytes.len();
        if read < bytes.len() && !at_the_end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes[read..].fill(0);
        bytes.chunks_exact(BLOCK).try_for_each(&mut each)?;
        left -= wanted;
    }
    Ok(())
}

/// Reads until the buffer is full or there is no more; answers how much it was.
fn read_up_to(mut data: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match data.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(read)
}

struct Builder<'a, W> {
    layout: &'a Layout,
    hasher: Hasher,
    levels: Vec<Filling>,
    root: Option<RootHash>,
    write: W,
}

impl<'a, W: FnMut(u64, &Block) -> io::Result<()>> Builder<'a, W> {
    fn new(layout: &'a Layout, salt: &Salt, write: W) -> Self {
        let empty = || Filling {
            block: Box::new([0; BLOCK]),
            digests: 0,
            done: 0,
        };
        Self {
            layout,
            hasher: Hasher::new(salt),
            levels: (0..layout.levels()).map(|_| empty()).collect(),
            root: None,
            write,
        }
    }

    /// Adds a data block's digest.
    fn add(&mut self, digest: [u8; DIGEST]) -> io::Result<()> {
        let mut digest = digest;
        for level in 0..self.levels.len() {
            let filling = &mut self.levels[level];
            let at = filling.digests * DIGEST;
            filling.block[at..at + DIGEST].copy_from_slice(&digest);
            filling.digests += 1;
            if filling.digests < DIGESTS {
                return Ok(());
            }
            digest = self.close(level)?;
        }
        self.root = Some(RootHash::new(digest));
        Ok(())
    }

    /// Hands a level's block on, and begins the next.
    fn close(&mut self, level: usize) -> io::Result<[u8; DIGEST]> {
        let filling = &mut self.levels[level];
        (self.write)(self.layout.block(level, filling.done), &filling.block)?;
        let digest = self.hasher.digest(&*filling.block);
        filling.block.fill(0);
        filling.digests = 0;
        filling.done += 1;
        Ok(digest)
    }

    /// Closes what is not full, from the lowest level on.
    fn finish(mut self) -> io::Result<RootHash> {
        for level in 0..self.levels.len() {
            if self.levels[level].digests == 0 {
                continue;
            }
            let digest = self.close(level)?;
            match self.levels.get_mut(level + 1) {
                Some(above) => {
                    let at = above.digests * DIGEST;
                    above.block[at..at + DIGEST].copy_from_slice(&digest);
                    above.digests += 1;
                }
                None => self.root = Some(RootHash::new(digest)),
            }
        }
        // There is data, and so a digest that nothing is above of.
        self.root.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::testing::{data, device};

    /// What cryptsetup's `veritysetup format` makes: data blocks, salt, root hash, and a digest of what it has
    /// written, which is the superblock, its UUID given, and the tree.
    const BY_VERITYSETUP: [(usize, &[u8], &str, &str); 7] = [
        (
            1,
            &[0; 32],
            "59516e67926f90b38710d9b4c62647a0125b031547b5adb863f1aa6f323cb6f1",
            "a7c17981c909171b2c81892783cd7ab6082dcecbc0bedffa802f788d8a48fc63",
        ),
        (
            2,
            &[],
            "26b55feff886208be165f219e9bd54dfc6e351d98603c1b4f23ddaae10f0c68e",
            "978588bee3106bfd4ec85706a4c7578d37a13aad987205b9363f0e467f69a059",
        ),
        (
            2,
            &[0; 32],
            "a3ca6fdb4f706d76b456d60c50dc43d340c9e4cd8689485aec5b33da80147cce",
            "e7c0306ce6da7d25a76d90f3c30fbade29c05d8b7124f4e937f4ecec0fd6a288",
        ),
        (
            128,
            &[0; 32],
            "ce102996778b26868597f96aaf4297a7dbd3f01f9e9c5d11d6428cddc8daba9b",
            "2beb1888492efea35e9fd35cb05e3460b9872601da3f89f1ba8777335964aa00",
        ),
        (
            129,
            &[0; 32],
            "32a585faf141d3993390e4b3b97d529f1567c6919cb4f53a931ec9de41da8bd5",
            "75be88a696226e4e51288e1092970c0c139b7ff9e5d326288646004d806c9f25",
        ),
        (
            129,
            &[0xa1, 0xb2, 0xc3],
            "9b0837f183ee860bd616a829456b281dc17a50a8b620e152dfb0af779fdd45cf",
            "f80eaeb7c24c221fcfec54a4225eec096267d5b2ffdada0a1e0b4718e1efa934",
        ),
        (
            128 * 128 + 1,
            &[0; 32],
            "631dc7ebfea583c8af183b6666e346cb39bb8a23cf5e9a8e1a2bf17ababbd641",
            "8e15a11b031dee91f10b3dcca81ef6b79bd6cf1fcd4592f4f5792f69f6bdcfe4",
        ),
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn it_is_the_tree_of_veritysetup() {
        for (blocks, salt, root, written) in BY_VERITYSETUP {
            let salt = Salt::new(salt).expect("a salt");
            let (mut device, made, layout) = device(&data(blocks * BLOCK), &salt);
            assert_eq!(made.to_string(), root, "{blocks} blocks");
            let superblock = crate::Superblock {
                data_blocks: layout.data_blocks(),
                salt,
                uuid: [0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1],
            };
            let at = blocks * BLOCK;
            device[at..at + BLOCK].copy_from_slice(&superblock.block());
            assert_eq!(
                hex(&Sha256::digest(&device[at..])),
                written,
                "{blocks} blocks"
            );
        }
    }

    /// Data that comes in pieces, with what interrupts a read between them.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = match self.1.pop() {
                Some(0) => return Err(io::ErrorKind::Interrupted.into()),
                Some(most) => most.min(buffer.len()),
                None => buffer.len(),
            };
            self.0.read(&mut buffer[..most])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn it_does_not_matter_how_data_comes(
            length in 1_usize..700_000,
            pieces in prop::collection::vec(0_usize..10_000, 0..100),
        ) {
            let (data, salt) = (data(length), Salt::of_layers());
            let (device, root, layout) = device(&data, &salt);
            let again = build(Pieces(&data, pieces), &layout, &salt, |_, _| Ok(()));
            prop_assert_eq!(again.expect("a tree"), root);
            // A short last block ends in zeros.
            let filled = &device[..layout.superblock_offset() as usize];
            let again = build(filled, &layout, &salt, |_, _| Ok(()));
            prop_assert_eq!(again.expect("a tree"), root);
        }
    }

    #[test]
    fn data_must_not_end_before_the_last_block() {
        let layout = Layout::new(70).expect("a layout");
        for (length, whole) in [(69 * BLOCK + 1, true), (69 * BLOCK, false), (0, false)] {
            let made = build(
                &data(length)[..],
                &layout,
                &Salt::of_layers(),
                |_, _| Ok(()),
            );
            assert_eq!(made.is_ok(), whole, "{length}");
        }
    }

    #[test]
    fn an_error_of_writing_is_answered() {
        let layout = Layout::new(3).expect("a layout");
        let full = |_: u64, _: &Block| Err(io::ErrorKind::StorageFull.into());
        let why = build(&data(3 * BLOCK)[..], &layout, &Salt::of_layers(), full);
        assert_eq!(why.expect_err("full").kind(), io::ErrorKind::StorageFull);
    }
}
