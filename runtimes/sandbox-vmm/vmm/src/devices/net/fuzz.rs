//! A hostile driver and a hostile network, as a fuzzer wishes.

#![allow(clippy::unwrap_used, reason = "what can't be is a finding")]

use std::os::unix::net::UnixDatagram;

use super::{MAX_PACKET, Net, Options, RX, TX};
use crate::devices::testing::hostile::without;
use crate::devices::testing::script::Script;
use crate::devices::testing::{BUFFERS, Driver, WRITE};

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
    let mut script = Script::new(bytes);
    let without = without(&mut script);
    let mut driver = Driver::start(Box::new(Net::over_socket(options, tap)), without);
    driver.misbehave(script.bytes(usize::MAX), |driver, script| {
        match script.below(8) {
            0 | 1 => {
                let length = script.number(2) as usize;
                let _ = peer.send(&vec![0xa5; length.min(MAX_PACKET + 100)]);
            }
            2 => drain(&peer),
            // What a driver gives for packets to come, whole ones or small ones to be put together.
            3 | 4 => {
                for number in 0..1 + script.number(1) % 32 {
                    let length = script.of(&[1526, 65562, 128, 4096, 12, 1]);
                    let at = BUFFERS + 0x10_0000 + number * 0x1_1000;
                    driver.chain(RX, &[(at, length, WRITE)]);
                }
                driver.kick(RX);
                driver.turn().unwrap();
            }
            // Packets, in a part or in two.
            _ => {
                for _ in 0..1 + script.number(1) % 32 {
                    let length = script.number(2) as u32;
                    match length & 1 {
                        0 => driver.chain(TX, &[(BUFFERS, length, 0)]),
                        _ => driver.chain(TX, &[(BUFFERS, 12, 0), (BUFFERS, length, 0)]),
                    };
                }
                driver.kick(TX);
                driver.turn().unwrap();
            }
        }
    });
    (driver, peer)
}

/// Receives all that was sent.
pub(super) fn drain(peer: &UnixDatagram) {
    while peer.recv(&mut []).is_ok() {}
}
