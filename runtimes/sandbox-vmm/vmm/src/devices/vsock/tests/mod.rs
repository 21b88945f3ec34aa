//! The device as a guest and a host's side see it.

mod ends;
mod flow;
mod flow_control;
mod hostile;
mod order;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::testing::WRITE;
use super::host_socket::{HELD, HostSocket};
use super::packet::{HOST_CID, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::testing::{CID, Guest, PORT, RX_COUNT, Socket};
use super::{Device, Options, RX, TX, Vsock, credit};

const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// The guest connects to a port of the host's.
fn connect(guest: &mut Guest, port: u32, from: u32) -> (Socket, UnixStream) {
    let mut socket = Socket::new(port, from);
    socket.send(guest, Op::Request, 0);
    guest.kick();
    socket.hear(&guest.expect(Op::Response));
    let (asked, stream) = guest.host_socket.accept().unwrap();
    assert_eq!(asked, port);
    (socket, stream)
}

/// The host connects to a port of the guest's.
fn connect_in(guest: &mut Guest, port: u32) -> (Socket, UnixStream) {
    let stream = guest.host_socket.connect(port).unwrap();
    let packet = guest.expect(Op::Request);
    let mut socket = Socket::new(packet.header.src_port, port);
    socket.hear(&packet);
    socket.send(guest, Op::Response, 0);
    guest.kick();
    (socket, stream)
}

fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn is_at_end(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(why) => {
            assert_eq!(why.kind(), ErrorKind::WouldBlock, "{why}");
            false
        }
    }
}

fn pattern(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn read_all(guest: &mut Guest, stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut part = [0; 8192];
    while got.len() < count {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&part[..count]),
            Err(_) => guest.turn(),
        }
    }
    got
}
