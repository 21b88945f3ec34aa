//! dm-verity's hash tree and superblock: made, read and checked.
//!
//! The format is containerd's, of its EROFS layers: sha256, data and hash blocks of 4096 bytes, the
//! superblock behind the data and the tree behind the superblock (the kernel's
//! `Documentation/admin-guide/device-mapper/verity.rst`, cryptsetup's on-disk format of verity).
//!
//! A root hash says nothing without the number of data blocks that it is for: with another number the same
//! hash is that of blocks of the tree, taken for data. So [`Layout`] is part of each call, and who checks
//! takes it from where the hash is from, never from a superblock.

mod check;
mod layout;
mod root;
mod sidecar;
mod superblock;
mod tree;

#[cfg(any(test, fuzzing))]
pub mod testing;

pub use check::{Checker, Mismatch};
pub use layout::{Layout, MOST_DATA_BLOCKS};
pub use root::{RootHash, RootHashError};
pub use sidecar::{Sidecar, SidecarError};
pub use superblock::{Salt, Superblock, SuperblockError};
pub use tree::build;

/// The bytes of a block, of data and of hashes.
pub const BLOCK: usize = 4096;

/// A block.
pub type Block = [u8; BLOCK];

/// The bytes of a digest.
const DIGEST: usize = 32;

/// The digests in a hash block.
const DIGESTS: usize = BLOCK / DIGEST;
