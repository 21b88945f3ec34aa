//! A guest that does as it likes with a disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, what can't be is a failure of the test"
)]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::{Block, Engine, Options};
use crate::devices::testing::{BUFFERS, Driver};

const SIZE: usize = 1 << 20;
/// The guest may change what is below.
const HEADERS: u64 = 128;

/// Does what a guest may do that the bytes describe. The first says how the disk is made. A disk
/// that may only be read never changes, and none changes its size.
pub fn fuzz(bytes: &[u8]) {
    let (&how, script) = bytes.split_first().unwrap_or((&0, &[]));
    let file = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC).unwrap());
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 512 * 7 + at) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    let read_only = how & 1 != 0;
    let options = Options {
        read_only,
        serial: "a disk".into(),
        engine: match how & 2 {
            0 => Engine::Automatic,
            _ => Engine::Plain,
        },
    };
    let block = Block::new(options, file.try_clone().unwrap()).unwrap();
    // Without one of its features, without event index or indirect descriptors, or with all; but
    // not without being of this version, which is refused.
    let without = match how >> 2 {
        32 => 0,
        bit => 1 << bit,
    };
    let mut driver = Driver::start(Box::new(block), without);
    put_headers(&driver);
    driver.misbehave(script);
    driver.write(0x70, 0);
    drop(driver);
    assert_eq!(file.metadata().unwrap().size(), SIZE as u64);
    if read_only {
        let mut now = vec![0; SIZE];
        file.read_exact_at(&mut now, 0).unwrap();
        assert!(now == content, "a disk that may only be read has changed");
    }
}

/// Puts requests' headers where the script's descriptors point to, so that not all of them have to
/// be found by chance.
fn put_headers(driver: &Driver) {
    for number in 0..HEADERS {
        let kind: u32 = [0, 1, 4, 8, 11, 13, 0, 1][number as usize % 8];
        let sector: u64 = match number / 8 {
            0 => u64::MAX,
            1 => SIZE as u64 / 512 - 1,
            other => other * 8,
        };
        // A range looks alike, but for the place of its parts.
        let bytes: [[u8; 8]; 2] = match number {
            ..96 => [u64::from(kind).to_le_bytes(), sector.to_le_bytes()],
            _ => [sector.to_le_bytes(), (number % 16).to_le_bytes()],
        };
        let at = GuestAddress(BUFFERS + number * 16);
        driver.ram.write_slice(&bytes.concat(), at).unwrap();
    }
}
