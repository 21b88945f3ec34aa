//! Buffers that are cut, filled and read, against bytes in a row.

use std::sync::Arc;

use proptest::prelude::*;
use trefoil_virtio::{Broken, Buffers, Ram};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, END, SEAM, guests, memory};

/// Memory whose bytes tell where they are, and buffers in it.
fn made(parts: &[(u64, usize)]) -> (Arc<Ram>, Buffers, Vec<u8>) {
    let ram = memory();
    let bytes: Vec<u8> = (0..END).map(|at| (at % 251) as u8).collect();
    ram.write_slice(&bytes, GuestAddress(0)).expect("fill");
    let mut buffers = Buffers::default();
    let mut row = Vec::new();
    for &(at, length) in parts {
        buffers.add(&ram, GuestAddress(at), length).expect("add");
        row.extend(&bytes[at as usize..at as usize + length]);
    }
    (ram, buffers, row)
}

#[test]
fn buffers_that_are_shorter_than_what_is_moved_are_left_alone() {
    let (ram, buffers, row) = made(&[(BUFFERS, 3), (BUFFERS + 100, 2)]);
    let mut six = [0; 6];
    assert_eq!(buffers.read(&mut six), Err(Broken::Short));
    assert_eq!(six, [0; 6]);
    assert_eq!(buffers.write(&[9; 6]), Err(Broken::Short));
    let mut five = [0; 5];
    buffers.read(&mut five).expect("all of it");
    assert_eq!(five, row[..]);
    buffers.write(&[9; 5]).expect("all of it");
    let byte = |at| ram.read_obj::<u8>(GuestAddress(at)).expect("byte");
    assert_eq!([byte(BUFFERS + 2), byte(BUFFERS + 101)], [9, 9]);
    assert_ne!([byte(BUFFERS + 3), byte(BUFFERS + 102)], [9, 9]);
}

#[test]
fn buffers_without_memory_are_refused() {
    let ram = memory();
    let mut buffers = Buffers::default();
    for (at, length) in [(END, 1), (END - 1, 2), (u64::MAX, 2), (0, usize::MAX)] {
        let added = buffers.add(&ram, GuestAddress(at), length);
        assert_eq!(added, Err(Broken::Address), "{at:#x} {length}");
    }
}

proptest! {
    #[test]
    fn cut_buffers_are_a_cut_row(
        parts in proptest::collection::vec((SEAM - 64..SEAM + 64, 0..100_usize), 0..6),
        cuts in proptest::collection::vec((any::<bool>(), 0..200_usize), 0..4),
    ) {
        let (ram, mut buffers, mut row) = made(&parts);
        for (front, count) in cuts {
            if front {
                buffers.skip(count);
                row.drain(..count.min(row.len()));
            } else {
                buffers.truncate(count);
                row.truncate(count);
            }
            prop_assert_eq!(buffers.len(), row.len());
            prop_assert_eq!(buffers.is_empty(), row.is_empty());
            let places = guests(&ram, buffers.iovecs());
            prop_assert!(places.iter().all(|(_, length)| *length > 0));
            prop_assert_eq!(places.iter().map(|(_, length)| length).sum::<usize>(), row.len());
            let mut read = vec![0; row.len()];
            buffers.read(&mut read).expect("as long as it is");
            prop_assert_eq!(&read, &row);
        }
    }
}
