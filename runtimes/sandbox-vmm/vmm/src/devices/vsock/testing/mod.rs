//! A guest's driver and its sockets, for tests and fuzzing, as far as one has to see what the device
//! says.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "in a test, what can't be is a failure of the test"
)]
#![cfg_attr(not(test), allow(dead_code, reason = "a part is for tests alone"))]

pub mod model;

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{BUFFERS, Driver, WRITE};
use super::host_socket::HostSocket;
use super::packet::{HOST_CID, Header, Op, SIZE, STREAM};
use super::{Options, RX, TX, Vsock};

pub const CID: u64 = 3;
/// The guest may connect to ports from here on.
pub const PORT: u32 = 1024;
/// What Linux offers.
const RX_SIZE: u32 = 3776;
/// As many as fit into the rx queue.
pub const RX_COUNT: u16 = 128;
/// Two descriptors each.
const TX_COUNT: u16 = 64;
/// The most data in one packet.
pub const TX_SIZE: usize = 64 << 10;

const RX_PLACE: u64 = BUFFERS;
const HEADERS: u64 = BUFFERS + 0x10_0000;
const TX_PLACE: u64 = 0x80_0000;

/// A packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Packet {
    pub fn op(&self) -> Op {
        Op::from_number(self.header.op).unwrap()
    }
}

/// The guest and the parent's end of the host socket.
pub struct Guest {
    pub driver: Driver,
    pub host_socket: HostSocket,
    pub rx_size: u32,
    given: u16,
    offered: u16,
    sent: u16,
    under_way: u16,
}

impl Guest {
    /// With the rx queue empty.
    pub fn bare(options: Options) -> Self {
        let (host_socket, theirs) = HostSocket::pair().unwrap();
        let device = Vsock::new(options, theirs).unwrap();
        Self {
            driver: Driver::start(Box::new(device), 0),
            host_socket,
            rx_size: RX_SIZE,
            given: 0,
            offered: 0,
            sent: 0,
            under_way: 0,
        }
    }

    /// With the rx queue full.
    pub fn start(options: Options) -> Self {
        let mut guest = Self::bare(options);
        guest.give(RX_COUNT);
        guest
    }

    pub fn options() -> Options {
        Options {
            ports: vec![PORT..=PORT + 10_000],
            ..Options::new(CID)
        }
    }

    /// Puts buffers into the rx queue, as many as have room.
    pub fn give(&mut self, count: u16) {
        for _ in 0..count.min(RX_COUNT - self.given) {
            let at = RX_PLACE + u64::from(self.offered % RX_COUNT) * 4096;
            let head = self.driver.chain(RX, &[(at, self.rx_size, WRITE)]);
            assert_eq!(head, self.offered % RX_COUNT);
            self.offered = self.offered.wrapping_add(1);
            self.given += 1;
        }
        self.driver.kick(RX);
    }

    /// Takes the next packet, if there is one, and gives its buffer again only with `give`.
    pub fn take(&mut self) -> Option<Packet> {
        let (head, length) = self.driver.used(RX)?;
        self.given -= 1;
        let at = RX_PLACE + u64::from(head) * 4096;
        let length = length as usize;
        assert!((SIZE..=self.rx_size as usize).contains(&length), "{length}");
        let mut bytes = vec![0; length];
        let ram = &self.driver.ram;
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let data = bytes.split_off(SIZE);
        let header = Header::parse(&bytes.try_into().unwrap());
        assert_eq!(header.len as usize, data.len());
        Some(Packet { header, data })
    }

    /// Makes a packet available without a kick; waits if there is no room.
    pub fn send(&mut self, header: &Header, data: &[u8]) {
        let bytes = header.bytes();
        self.send_raw(&bytes, data);
    }

    /// The same with any bytes for a header.
    pub fn send_raw(&mut self, header: &[u8], data: &[u8]) {
        while self.under_way >= TX_COUNT {
            assert!(!self.driver.needs_reset(), "the device is broken");
            self.driver.kick(TX);
            self.turn();
        }
        let slot = u64::from(self.sent % TX_COUNT);
        let header_at = HEADERS + slot * 64;
        let data_at = TX_PLACE + slot * TX_SIZE as u64;
        let ram = &self.driver.ram;
        ram.write_slice(header, GuestAddress(header_at)).unwrap();
        ram.write_slice(data, GuestAddress(data_at)).unwrap();
        let mut chain = vec![(header_at, header.len() as u32, 0)];
        if !data.is_empty() {
            chain.push((data_at, data.len() as u32, 0));
        }
        self.driver.chain(TX, &chain);
        self.sent = self.sent.wrapping_add(1);
        self.under_way += 1;
    }

    /// Kicks the tx queue and lets the loop run.
    pub fn kick(&mut self) {
        self.driver.kick(TX);
        self.turn();
    }

    /// Lets the loop run once.
    pub fn turn(&mut self) {
        self.driver.turn().unwrap();
        while self.driver.used(TX).is_some() {
            self.under_way -= 1;
        }
    }

    /// The next packet; the loop runs until it is there, and its buffer is given again.
    pub fn next(&mut self) -> Packet {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(packet) = self.take() {
                self.give(1);
                return packet;
            }
            self.turn();
            assert!(Instant::now() < deadline, "no packet came");
        }
    }

    /// The next packet, which is of this kind.
    pub fn expect(&mut self, op: Op) -> Packet {
        let packet = self.next();
        assert_eq!(packet.op(), op, "{:?}", packet.header);
        packet
    }

    /// Nothing comes, however often the loop runs.
    pub fn expect_nothing(&mut self) {
        for _ in 0..20 {
            self.turn();
            if let Some(packet) = self.take() {
                panic!("{:?} came", packet.header);
            }
        }
    }

    pub fn after_reset(&mut self) {
        (self.given, self.offered, self.sent, self.under_way) = (0, 0, 0, 0);
        self.driver.negotiate(0);
        self.give(RX_COUNT);
    }
}

/// The guest's side of one connection.
#[derive(Clone, Debug)]
pub struct Socket {
    pub host: u32,
    pub guest: u32,
    /// What it tells.
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
    /// What it has received.
    pub received: u32,
    pub sent: u32,
    pub peer_alloc: u32,
    pub peer_fwd: u32,
}

impl Socket {
    pub fn new(host: u32, guest: u32) -> Self {
        Self {
            host,
            guest,
            buf_alloc: 256 << 10,
            fwd_cnt: 0,
            received: 0,
            sent: 0,
            peer_alloc: 0,
            peer_fwd: 0,
        }
    }

    pub fn header(&self, op: Op) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: self.guest,
            dst_port: self.host,
            len: 0,
            kind: STREAM,
            op: op as u16,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// How much it may send.
    pub fn free(&self) -> u32 {
        self.peer_alloc - self.sent.wrapping_sub(self.peer_fwd)
    }

    /// Takes a packet for this connection in: its addresses, its credit, and that it keeps to ours.
    pub fn hear(&mut self, packet: &Packet) {
        let header = &packet.header;
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        assert_eq!((header.src_port, header.dst_port), (self.host, self.guest));
        assert_eq!(header.kind, STREAM);
        if packet.op() == Op::Reset {
            return;
        }
        self.received = self.received.wrapping_add(header.len);
        let kept = self.received.wrapping_sub(self.fwd_cnt);
        assert!(kept <= self.buf_alloc, "more under way than was allowed");
        let sent = |count: u32| self.sent.wrapping_sub(count);
        assert!(sent(header.fwd_cnt) <= sent(self.peer_fwd), "taken back");
        let end = |alloc: u32, fwd: u32| sent(fwd.wrapping_add(alloc)) as i32;
        assert!(
            end(header.buf_alloc, header.fwd_cnt) <= end(self.peer_alloc, self.peer_fwd),
            "the window's end moved back"
        );
        self.peer_alloc = header.buf_alloc;
        self.peer_fwd = header.fwd_cnt;
    }

    pub fn send(&self, guest: &mut Guest, op: Op, flags: u32) {
        let header = Header {
            flags,
            ..self.header(op)
        };
        guest.send(&header, &[]);
    }

    /// Sends data, as much as is allowed or not.
    pub fn write(&mut self, guest: &mut Guest, data: &[u8]) {
        for part in data.chunks(TX_SIZE) {
            let header = Header {
                len: part.len() as u32,
                ..self.header(Op::ReadWrite)
            };
            guest.send(&header, part);
            self.sent = self.sent.wrapping_add(part.len() as u32);
        }
    }
}
