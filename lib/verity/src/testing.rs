//! What the tests and a fuzzer play.

use crate::{BLOCK, Block, Layout, MOST_DATA_BLOCKS, Salt, Sidecar, Superblock, build};

/// A device in memory, of data of this length that depends on where it is.
#[must_use]
pub fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at % 251) as u8).collect()
}

/// Puts the tree of data behind it. Answers the device and its root hash.
///
/// # Panics
/// If there is no data.
#[must_use]
#[allow(clippy::expect_used)]
pub fn device(data: &[u8], salt: &Salt) -> (Vec<u8>, crate::RootHash, Layout) {
    let layout = Layout::of_bytes(data.len() as u64).expect("data");
    let mut device = data.to_vec();
    device.resize(layout.device_bytes() as usize, 0);
    let root = build(data, &layout, salt, |number, block| {
        let at = number as usize * BLOCK;
        device[at..at + BLOCK].copy_from_slice(block);
        Ok(())
    });
    (device, root.expect("no errors in memory"), layout)
}

/// Takes bytes for a sidecar, and for the front of a superblock; what is accepted is within bounds, and the
/// same when it is written and read again.
///
/// # Panics
/// If it is not.
#[allow(clippy::expect_used)]
pub fn metadata(bytes: &[u8]) {
    if let Ok(sidecar) = Sidecar::read(bytes) {
        let again = Sidecar::read(sidecar.json().as_bytes()).expect("a sidecar");
        assert_eq!(again, sidecar);
        assert!(sidecar.layout.data_blocks() <= MOST_DATA_BLOCKS);
        assert!(sidecar.layout.device_bytes() < i64::MAX as u64);
    }
    let mut block: Block = [0; BLOCK];
    let length = bytes.len().min(BLOCK);
    block[..length].copy_from_slice(&bytes[..length]);
    if let Ok(superblock) = Superblock::read(&block) {
        assert_eq!(
            Superblock::read(&superblock.block()),
            Ok(superblock.clone())
        );
        assert!(Layout::new(superblock.data_blocks).is_some());
    }
}
