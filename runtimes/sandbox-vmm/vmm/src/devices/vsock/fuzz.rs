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

use super::super::testing::{BUFFERS, INDIRECT, NEXT, WRITE};
use super::packet::SIZE;
use super::testing::{Guest, PORT, Socket};
use super::{RX, TX};

/// Lets the device go through what the bytes say.
pub fn fuzz(bytes: &[u8]) {
    let mut options = Guest::options();
    options.connections = 8;
    options.memory = 64 << 10;
    let mut guest = Guest::bare(options);
    let mut streams: Vec<UnixStream> = Vec::new();
    let mut input = Input(bytes);
    let mut raw = false;
    while let Some(what) = input.byte() {
        match what % 16 {
            // A packet that is mostly right, from one of few ports.
            0..=5 if !raw => {
                let (op, from) = (input.number(1), input.number(1));
                let mut socket = Socket::new(PORT + from / 8 % 4, from % 8);
                socket.buf_alloc = input.number(3);
                let mut header = socket.header(super::packet::Op::Request);
                header.op = op as u16 % 9;
                header.flags = op >> 4;
                header.fwd_cnt = input.number(2);
                header.len = input.number(1) * 64;
                // Where connections from the host come from, one after the other.
                if op & 0x80 != 0 {
                    header.dst_port = (1 << 30) + from / 8;
                }
                let data = vec![what; header.len as usize];
                guest.send(&header, &data);
            }
            // One that is mostly wrong.
            6 if !raw => {
                let header: Vec<u8> = input.bytes(SIZE);
                if !header.is_empty() {
                    guest.send_raw(&header, &[0; 100]);
                }
            }
            7 if !raw => guest.give(input.number(1) as u16),
            8 if !raw => while guest.take().is_some() {},
            9 => streams.extend(guest.door.connect(input.number(1) % 8)),
            10 => {
                let (which, count) = (input.number(1) as usize, input.number(2) as usize);
                let number = streams.len().max(1);
                if let Some(stream) = streams.get_mut(which % number) {
                    drop(stream.write(&vec![1; count]));
                }
            }
            11 => {
                let (which, count) = (input.number(1) as usize, input.number(2) as usize);
                let number = streams.len().max(1);
                if let Some(stream) = streams.get_mut(which % number) {
                    drop(stream.read(&mut vec![0; count]));
                }
            }
            12 => {
                let (which, how) = (input.number(1) as usize, input.number(1));
                let number = streams.len().max(1);
                if let Some(stream) = streams.get(which % number) {
                    let _ = match how % 3 {
                        0 => stream.shutdown(std::net::Shutdown::Read),
                        1 => stream.shutdown(std::net::Shutdown::Write),
                        _ => {
                            streams.swap_remove(which % number);
                            Ok(())
                        }
                    };
                }
            }
            // The rings by hand; from then on what is in them is nobody's.
            13 => {
                raw = true;
                let queue = input.number(1) as usize % 3;
                let flags = input.number(1) as u16 & (NEXT | WRITE | INDIRECT);
                let address = BUFFERS + u64::from(input.number(3));
                let (index, next) = (input.number(1) as u16, input.number(1) as u16);
                let length = input.number(2);
                let driver = &mut guest.driver;
                driver.describe(queue, index % 128, address, length, flags, next);
                let header: Vec<u8> = input.bytes(SIZE);
                drop(driver.ram.write_slice(&header, GuestAddress(address)));
                driver.offer(queue, index);
                driver.kick(queue);
                driver.turn().unwrap();
            }
            14 if input.number(1) == 0 => {
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
                while let Ok((_, stream)) = guest.door.accept() {
                    streams.push(stream);
                }
            }
        }
    }
    for _ in 0..4 {
        guest.driver.turn().unwrap();
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self, bytes: usize) -> u32 {
        (0..bytes).fold(0, |number, _| {
            number << 8 | u32::from(self.byte().unwrap_or(0))
        })
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (some, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        some.to_vec()
    }
}
