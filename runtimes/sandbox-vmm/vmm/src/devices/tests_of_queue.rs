//! Chains without an end, as a driver can make them, of a queue behind a device's registers.

use trefoil_virtio::MAX_BUFFERS;
use vm_memory::{Bytes, GuestAddress};

use super::rng::Rng;
use super::testing::{BUFFERS, Driver, INDIRECT, NEXT, WRITE};

/// Kicks a queue with one chain, whose table has so many descriptors, each like this one and the
/// last without a next one. Whether the device is broken by it.
fn breaks(count: usize, length: u32, last_next: Option<u16>) -> bool {
    let mut driver = Driver::start(Box::new(Rng::new()), 0);
    let mut table = Vec::new();
    for number in 1..=count {
        let last = number == count;
        let next = last_next.filter(|_| last).unwrap_or(number as u16);
        let flags = match last && last_next.is_none() {
            true => WRITE,
            false => WRITE | NEXT,
        };
        table.extend((BUFFERS - 16).to_le_bytes());
        table.extend(length.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend(next.to_le_bytes());
    }
    let at = GuestAddress(BUFFERS);
    driver.ram.write_slice(&table, at).expect("write");
    driver.chain(0, &[(BUFFERS, table.len() as u32, INDIRECT)]);
    driver.kick(0);
    driver.turn().expect("turn");
    let broken = driver.needs_reset();
    assert_eq!(driver.used(0).is_none(), broken);
    broken
}

#[test]
fn a_chain_has_an_end_that_is_not_far() {
    for length in [0, 1] {
        assert!(!breaks(MAX_BUFFERS, length, None));
        assert!(breaks(MAX_BUFFERS + 1, length, None));
        assert!(breaks(65535, length, None));
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_has_none() {
    for (count, next) in [(1, 0), (5, 0), (5, 4), (600, 3), (5, 5), (5, 65535)] {
        for length in [0, 1] {
            assert!(breaks(count, length, Some(next)), "{count} {next}");
        }
    }
    // The same in the queue itself.
    let mut driver = Driver::start(Box::new(Rng::new()), 0);
    for index in 0..4 {
        driver.describe(0, index, BUFFERS, 1, WRITE | NEXT, (index + 1) % 4);
    }
    driver.offer(0, 0);
    driver.kick(0);
    driver.turn().expect("turn");
    assert!(driver.needs_reset());
}
