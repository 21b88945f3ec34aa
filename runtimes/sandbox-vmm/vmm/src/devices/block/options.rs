//! How a disk is to be used, what it may have, and why it can't be used.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

/// The largest size of the queue, and the most requests under way.
pub(super) const QUEUE_SIZE: u16 = 256;
/// What a sector is in the protocol, whatever the disk's blocks are.
pub(super) const SECTOR: u64 = 512;
/// The most ranges one discard or write-zeroes has.
pub(super) const MAX_RANGES: u32 = 64;
/// The most files of a disk: an image has at most 127 layers.
pub const MOST_PARTS: usize = 128;
/// How long the serial number may be.
pub(super) const SERIAL_SIZE: usize = VIRTIO_BLK_ID_BYTES as usize;

/// How the disk is to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What the guest sees as `/sys/block/vda/serial`; at most 20 bytes.
    pub serial: String,
    /// How the host's kernel is asked.
    pub engine: Engine,
}

/// How the host's kernel is asked to read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// By io_uring where it can be had, by plain system calls where not.
    #[default]
    Automatic,
    /// By io_uring: the event thread never waits for the disk.
    Ring,
    /// By one system call at a time, which the event thread waits for.
    Plain,
}

/// Why a disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// examine the disk: {0}
    #[error("examine the disk: {0}")]
    Examine(std::io::Error),
    /// the disk is neither a regular file nor a block device
    #[error("the disk is neither a regular file nor a block device")]
    Kind,
    /// the disk is to be made of {0} files
    #[error(
        "the disk is to be made of {0} files, and can be of one, or of {MOST_PARTS} if it is only read"
    )]
    Parts(usize),
    /// the disk's files are longer than can be counted
    #[error("the disk's files are together longer than can be counted")]
    Sum,
    /// the disk has {size} bytes, which is not a multiple of its blocks' {block}
    #[error("the disk has {size} bytes, which is not a multiple of its blocks' {block}")]
    Size {
        /// The disk's, or that of one of its files.
        size: u64,
        /// The smallest unit that can be read and written.
        block: u32,
    },
    /// the disk's blocks have {0} bytes, and only 512, 1024, 2048 and 4096 can be shown to a guest
    #[error(
        "the disk's blocks have {0} bytes, and only 512, 1024, 2048 and 4096 can be shown to a guest"
    )]
    Block(u32),
    /// the disk's serial number has {0} bytes, and there is room for 20
    #[error("the disk's serial number has {0} bytes, and there is room for {SERIAL_SIZE}")]
    Serial(usize),
    /// the disk was opened without the right to {0} it
    #[error("the disk was opened without the right to {0} it")]
    Access(&'static str),
    /// the disk was opened for appending, which writes elsewhere than where the guest says
    #[error("the disk was opened for appending, which writes elsewhere than where the guest says")]
    Append,
    /// make an io_uring for the disk: {0}
    #[error("make an io_uring for the disk: {0}")]
    Ring(std::io::Error),
}
