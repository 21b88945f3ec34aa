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
use crate::devices::testing::hostile::without;
use crate::devices::testing::script::Script;
use crate::devices::testing::{BUFFERS, Driver, WRITE};

const SIZE: usize = 64 << 10;
/// All that there are, and one more.
const KINDS: [u32; 8] = [0, 1, 4, 8, 11, 13, 1, 99];

/// Does what a guest may do that the bytes describe. The first says how the disk is made, the
/// second what its driver goes without. A disk that may only be read never changes, and none
/// changes its size.
pub fn fuzz(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.number(1);
    let file = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(SIZE as u64).unwrap();
    let read_only = how & 1 != 0;
    let content = [0x5a; SIZE];
    if read_only {
        file.write_all_at(&content, 0).unwrap();
    }
    let options = Options {
        read_only,
        serial: "a disk".into(),
        // A ring takes long to make, so that most do without.
        engine: match how & 14 {
            0 => Engine::Automatic,
            _ => Engine::Plain,
        },
    };
    let block = Block::new(options, vec![file.try_clone().unwrap()]).unwrap();
    let mut driver = Driver::start(Box::new(block), without(&mut script));
    driver.misbehave(script.bytes(usize::MAX), request);
    driver.write(0x70, 0);
    drop(driver);
    assert_eq!(file.metadata().unwrap().size(), SIZE as u64);
    if read_only {
        let mut now = [0; SIZE];
        file.read_exact_at(&mut now, 0).unwrap();
        assert!(now == content, "a disk that may only be read has changed");
    }
}

/// Makes a request that is mostly one.
fn request(driver: &mut Driver, script: &mut Script<'_>) {
    let kind = script.of(&KINDS);
    let sector = match script.number(1) {
        0xff => u64::MAX,
        0xfe => script.number(8),
        near => near,
    };
    let shape = script.number(1);
    // A place for the header, and one for ranges or data behind it.
    let at = BUFFERS + (shape & 0x7f) * 0x2000;
    let header = [u64::from(kind).to_le_bytes(), sector.to_le_bytes()].concat();
    driver.ram.write_slice(&header, GuestAddress(at)).unwrap();
    let ranges = 11..=13;
    let count = script.below(5);
    let mut parts = vec![(at, 16, 0)];
    for number in 0..count as u64 {
        let data = at + 0x1000 + number * 0x200;
        let (length, flags) = match ranges.contains(&kind) {
            true => {
                let range: u64 = script.number(1);
                let sectors = script.number(1) as u32;
                let flags = script.number(1) as u32 % 3;
                let words = [range.to_le_bytes(), {
                    let mut both = [0; 8];
                    both[..4].copy_from_slice(&sectors.to_le_bytes());
                    both[4..].copy_from_slice(&flags.to_le_bytes());
                    both
                }];
                driver
                    .ram
                    .write_slice(&words.concat(), GuestAddress(data))
                    .unwrap();
                (16, 0)
            }
            false => {
                let sectors = 1 + script.number(1) as u32 % 4;
                let odd = u32::from(sectors == 4);
                (sectors * 512 + odd, if kind == 1 { 0 } else { WRITE })
            }
        };
        parts.push((data, length, flags));
    }
    parts.push((at + 0x800, 1, WRITE));
    match shape & 0x80 {
        0 => drop(driver.chain(0, &parts)),
        _ => drop(driver.chain_in_table(0, shape, &parts)),
    }
    if script.number(1) & 1 == 0 {
        driver.kick(0);
        driver.turn().unwrap();
    }
}
