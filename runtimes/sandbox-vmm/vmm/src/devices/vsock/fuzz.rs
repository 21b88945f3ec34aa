//! An entry for fuzzing: bytes become what a guest, a host's side and a parent do. Nothing that is
//! done may end the event loop or take it forever.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "in a test, what can't be is a failure of the test"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::script::Script;
use super::super::testing::{BUFFERS, INDIRECT, NEXT, WRITE};
use super::packet::{Op, SIZE};
use super::testing::model::Model;
use super::testing::{Guest, PORT, RX_COUNT, Socket};
use super::{RX, TX};

/// The most streams the host has: without a descriptor left, no finding could be written down.
const MOST_STREAMS: usize = 40;

/// Lets the device go through what the bytes say: the first, whether the guest keeps to the rules.
pub fn fuzz(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    match script.number(1) & 1 {
        0 => misbehave(&mut script),
        _ => Model::new().play(&mut script),
    }
}

/// A guest that keeps to none.
fn misbehave(script: &mut Script<'_>) {
    let mut options = Guest::options();
    options.connections = 8;
    options.memory = 64 << 10;
    let mut guest = Guest::bare(options);
    guest.give(RX_COUNT / 2);
    let mut streams: Vec<UnixStream> = Vec::new();
    let mut raw = false;
    while let Some(what) = script.byte() {
        match what % 16 {
            // A packet that is mostly right, from one of few ports.
            0..=5 if !raw => {
                let (op, from) = (script.number(1) as u32, script.number(1) as u32);
                let mut socket = Socket::new(PORT + from / 8 % 4, from % 8);
                socket.buf_alloc = script.of(&[0, 1, 256, 4096, 256 << 10, u32::MAX]);
                let mut header = socket.header(Op::Request);
                header.op = op as u16 % 9;
                header.flags = op >> 4;
                header.fwd_cnt = script.number(2) as u32;
                header.len = script.number(1) as u32 * 64;
                // Where connections from the host come from, one after the other.
                if op & 0x80 != 0 {
                    header.dst_port = (1 << 30) + from / 8;
                }
                let data = vec![what; header.len as usize];
                guest.send(&header, &data);
            }
            // One that is mostly wrong.
            6 if !raw => {
                let header = script.bytes(SIZE);
                if !header.is_empty() {
                    guest.send_raw(header, &[0; 100]);
                }
            }
            7 if !raw => guest.give(script.number(1) as u16),
            8 if !raw => while guest.take().is_some() {},
            9 if streams.len() < MOST_STREAMS => {
                streams.extend(guest.host_socket.connect(script.number(1) as u32 % 8));
            }
            10..=12 => host(&mut streams, what % 16, script),
            // The rings by hand; from then on what is in them is nobody's.
            13 => {
                raw = true;
                by_hand(&mut guest, script);
            }
            14 if script.number(1) == 0 => {
                guest.after_reset();
                raw = false;
            }
            _ => {
                guest.driver.kick(TX);
                guest.driver.kick(RX);
                match raw {
                    true => guest.driver.turn().unwrap(),
                    false => guest.turn(),
                }
                while let Ok((_, stream)) = guest.host_socket.accept() {
                    streams.push(stream);
                }
            }
        }
    }
    for _ in 0..4 {
        guest.driver.turn().unwrap();
    }
}

/// What the host's side does with one of its streams.
fn host(streams: &mut Vec<UnixStream>, what: u8, script: &mut Script<'_>) {
    let which = script.below(streams.len());
    let Some(stream) = streams.get_mut(which) else {
        return;
    };
    match what {
        10 => drop(stream.write(&vec![1; script.number(2) as usize])),
        11 => drop(stream.read(&mut vec![0; script.number(2) as usize])),
        _ => {
            let _ = match script.number(1) % 3 {
                0 => stream.shutdown(std::net::Shutdown::Read),
                1 => stream.shutdown(std::net::Shutdown::Write),
                _ => {
                    streams.swap_remove(which);
                    Ok(())
                }
            };
        }
    }
}

fn by_hand(guest: &mut Guest, script: &mut Script<'_>) {
    let queue = script.below(3);
    let flags = script.number(1) as u16 & (NEXT | WRITE | INDIRECT);
    let address = BUFFERS + script.number(3);
    let (index, next) = (script.number(1) as u16, script.number(1) as u16);
    let length = script.number(2) as u32;
    let driver = &mut guest.driver;
    driver.describe(queue, index % 128, address, length, flags, next);
    let header = script.bytes(SIZE);
    drop(driver.ram.write_slice(header, GuestAddress(address)));
    driver.offer(queue, index);
    driver.kick(queue);
    driver.turn().unwrap();
}
