//! From an image's layers to the root hashes that a node's containerd gives them.
//!
//! An OCI image layout has the layers as tar archives, and containerd's differ has `mkfs.erofs` make EROFS
//! images of them, by arguments that depend on the archive and its digest alone. So they can be made anywhere.

mod archive;
mod blob;
mod choice;
mod decompress;
mod digest;
mod document;
mod mkfs;
mod roots;
mod signature;
mod user_files;

pub use choice::{Choice, Platform};
pub use digest::Digest;
pub use document::Config;
pub use mkfs::Mkfs;
pub use roots::Layers;
pub use signature::PublicKey;
pub use user_files::UserFiles;

use trefoil_verity::RootHash;

/// An image, all bytes of which have been compared with their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its manifest: of the one for the platform, where there are several.
    pub digest: Digest,
    /// What it does when run.
    pub config: Config,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// In what its users' names are looked up.
    pub users: UserFiles,
    /// What its author should know: a sentence for each layer whose root hash depends on the version of
    /// erofs-utils.
    pub cautions: Vec<String>,
}

/// What a policy says of a layer. Neither number means anything without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The root hash of its dm-verity tree.
    pub root: RootHash,
    /// The length of its EROFS image, in blocks of 4096 bytes.
    pub data_blocks: u64,
}

#[cfg(test)]
mod tests;
