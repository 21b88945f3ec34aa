//! A hostile driver and a hostile network, as a fuzzer wishes.

#![allow(clippy::unwrap_used, reason = "what can't be is a finding")]

use std::os::unix::net::UnixDatagram;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::{MAX_PACKET, Net, Options};
use crate::devices::testing::Driver;

/// Plays a script: what the driver does to rings and registers, and what packets arrive.
pub fn fuzz(bytes: &[u8]) {
    drop(play(bytes));
}

/// Plays a script, and gives back what is left.
pub(super) fn play(bytes: &[u8]) -> (Driver, UnixDatagram) {
    let (tap, peer) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let options = Options {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    };
    let (&first, mut script) = bytes.split_first().unwrap_or((&0, &[]));
    let mut without = 0;
    for (choice, feature) in [(1, VIRTIO_NET_F_MRG_RXBUF), (2, VIRTIO_RING_F_EVENT_IDX)] {
        if first & choice != 0 {
            without |= 1 << feature;
        }
    }
    let mut driver = Driver::start(Box::new(Net::over_socket(options, tap)), without);
    while let Some((&what, rest)) = script.split_first() {
        script = rest;
        let [high, low] = [0, 1].map(|index| usize::from(rest.get(index).copied().unwrap_or(0)));
        match what % 4 {
            0 => {
                let packet = vec![0xa5; (high << 8 | low).min(MAX_PACKET + 100)];
                let _ = peer.send(&packet);
            }
            1 => drain(&peer),
            _ => {
                let (steps, rest) = rest.split_at(rest.len().min(high));
                driver.misbehave(steps);
                script = rest;
            }
        }
    }
    (driver, peer)
}

/// Receives all that was sent.
pub(super) fn drain(peer: &UnixDatagram) {
    while peer.recv(&mut []).is_ok() {}
}
