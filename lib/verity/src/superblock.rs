//! The superblock, which says what the tree behind it is: read where only a hint is needed, as whoever can
//! change the tree can change it, too.

use crate::{BLOCK, Block, MOST_DATA_BLOCKS};

/// The bytes of it that mean something.
const SIZE: usize = 512;
const SIGNATURE: &[u8; 8] = b"verity\0\0";
const ALGORITHM: &[u8; 32] = b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The longest salt.
const MOST_SALT: usize = 256;
/// Of the format, and of how the salt is hashed.
const VERSION: u32 = 1;

/// What is hashed before each block: at most 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salt(Vec<u8>);

/// A superblock of the one kind that there is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The number of data blocks.
    pub data_blocks: u64,
    /// What is hashed before each block.
    pub salt: Salt,
    /// A name for the device, which nothing depends on. The tools refuse zeros.
    pub uuid: [u8; 16],
}

/// A superblock that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SuperblockError {
    #[error("there is no dm-verity superblock")]
    Signature,
    #[error("the dm-verity superblock is of version {0}, not 1")]
    Version(u32),
    #[error("the dm-verity superblock has hash type {0}, not 1")]
    HashType(u32),
    #[error("the dm-verity superblock has another algorithm than sha256")]
    Algorithm,
    #[error(
        "the dm-verity superblock has data blocks of {data} and hash blocks of {hash} bytes, not of 4096"
    )]
    BlockSize { data: u32, hash: u32 },
    #[error(
        "the dm-verity superblock is for {0} data blocks, and there can be 1 to {MOST_DATA_BLOCKS}"
    )]
    DataBlocks(u64),
    #[error("the dm-verity superblock has a salt of {0} bytes, and there can be 256")]
    Salt(u16),
}

impl Salt {
    /// The salt of these bytes, if they are not too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MOST_SALT).then(|| Self(bytes.to_vec()))
    }

    /// The salt of containerd's layers, 32 zeros: equal layers are to have equal trees.
    #[must_use]
    pub fn of_layers() -> Self {
        Self(vec![0; 32])
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads numbers from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let (front, rest) = self.0.split_at(N.min(self.0.len()));
        field[..front.len()].copy_from_slice(front);
        self.0 = rest;
        field
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

impl Superblock {
    /// Reads one.
    ///
    /// # Errors
    /// For all but version 1 with sha256, blocks of 4096 bytes, and numbers within bounds.
    pub fn read(block: &Block) -> Result<Self, SuperblockError> {
        let mut fields = Fields(&block[..SIZE]);
        if &fields.take() != SIGNATURE {
            return Err(SuperblockError::Signature);
        }
        match fields.u32() {
            VERSION => {}
            other => return Err(SuperblockError::Version(other)),
        }
        match fields.u32() {
            VERSION => {}
            other => return Err(SuperblockError::HashType(other)),
        }
        let uuid = fields.take();
        if &fields.take() != ALGORITHM {
            return Err(SuperblockError::Algorithm);
        }
        let (data, hash) = (fields.u32(), fields.u32());
        if [data, hash] != [BLOCK as u32; 2] {
            return Err(SuperblockError::BlockSize { data, hash });
        }
        let data_blocks = fields.u64();
        if !(1..=MOST_DATA_BLOCKS).contains(&data_blocks) {
            return Err(SuperblockError::DataBlocks(data_blocks));
        }
        let length = fields.u16();
        let _padding: [u8; 6] = fields.take();
        let salt: [u8; MOST_SALT] = fields.take();
        let salt = salt.get(..usize::from(length)).and_then(Salt::new);
        Ok(Self {
            data_blocks,
            salt: salt.ok_or(SuperblockError::Salt(length))?,
            uuid,
        })
    }

    /// The block that it is.
    #[must_use]
    pub fn block(&self) -> Block {
        let mut block = [0; BLOCK];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(SIGNATURE);
        put(&VERSION.to_le_bytes());
        put(&VERSION.to_le_bytes());
        put(&self.uuid);
        put(ALGORITHM);
        put(&(BLOCK as u32).to_le_bytes());
        put(&(BLOCK as u32).to_le_bytes());
        put(&self.data_blocks.to_le_bytes());
        put(&(self.salt.0.len() as u16).to_le_bytes());
        put(&[0; 6]);
        put(&self.salt.0);
        block
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> Superblock {
        Superblock {
            data_blocks: 7,
            salt: Salt::of_layers(),
            uuid: [3; 16],
        }
    }

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(
            data_blocks in 1..=MOST_DATA_BLOCKS,
            salt in prop::collection::vec(any::<u8>(), 0..=MOST_SALT),
            uuid: [u8; 16],
        ) {
            let salt = Salt::new(&salt).expect("a salt");
            let superblock = Superblock { data_blocks, salt, uuid };
            prop_assert_eq!(Superblock::read(&superblock.block()), Ok(superblock));
        }

        #[test]
        fn what_is_read_is_within_bounds(at in 0..SIZE, bytes: [u8; 8]) {
            let mut block = valid().block();
            let end = (at + bytes.len()).min(SIZE);
            block[at..end].copy_from_slice(&bytes[..end - at]);
            if let Ok(read) = Superblock::read(&block) {
                prop_assert!((1..=MOST_DATA_BLOCKS).contains(&read.data_blocks));
                prop_assert!(read.salt.bytes().len() <= MOST_SALT);
            }
        }
    }

    #[test]
    fn each_field_is_looked_at() {
        for (at, bytes, why) in [
            (0, &b"V"[..], SuperblockError::Signature),
            (8, &[2], SuperblockError::Version(2)),
            (12, &[0], SuperblockError::HashType(0)),
            (32, b"sha512", SuperblockError::Algorithm),
            (38, b"-", SuperblockError::Algorithm),
            (
                65,
                &[2],
                SuperblockError::BlockSize {
                    data: 512,
                    hash: 4096,
                },
            ),
            (
                69,
                &[0],
                SuperblockError::BlockSize {
                    data: 4096,
                    hash: 0,
                },
            ),
            (72, &[0], SuperblockError::DataBlocks(0)),
            (77, &[1, 1], SuperblockError::DataBlocks((0x101 << 40) + 7)),
            (80, &[1, 1], SuperblockError::Salt(257)),
        ] {
            let mut block = valid().block();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Superblock::read(&block), Err(why), "{at}");
        }
    }

    #[test]
    fn a_salt_has_a_bound() {
        assert!(Salt::new(&[1; MOST_SALT]).is_some());
        assert_eq!(Salt::new(&[1; MOST_SALT + 1]), None);
    }
}
