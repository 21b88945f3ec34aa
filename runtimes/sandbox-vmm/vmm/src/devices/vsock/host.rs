//! The host's side of all connections: what becomes of the guest's packets, of what comes through
//! the host socket, and of sockets that are ready. What the guest is to get is left in the connections and
//! in a short list of resets; [`super::receive`] sends it when there is room for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::super::watch::{Interest, Ready, Watch};
use super::connection::{Connection, Key};
use super::host_socket::{self, Came};
use super::packet::{HOST_CID, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use super::ports::{Ephemeral, Ports};
use super::socket::Vectors;
use super::state::{Input, Phase, Side};
use super::table::{Place, Table};
use super::timer::Timer;
use crate::metrics::DeviceMetrics;

/// The token of the host socket.
pub const HOST_SOCKET: u32 = 0xffff;
/// The token of the timer.
pub const TIMER: u32 = 0xfffe;

/// How long the guest may take to answer a connection from the host.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may take to answer the end of both directions; as long as Linux gives us.
const CLOSE: Duration = Duration::from_secs(8);
/// How many answers to packets that belong to no connection wait for the guest to take them. It
/// gets no answer to more: one that sends without receiving has stopped waiting for any.
const MAX_RESETS: usize = 256;
/// How many connections from the host are taken at a time.
const HOST_SOCKET_TURN: usize = 32;

/// What the device is told once.
pub struct Settings {
    /// The guest's address.
    pub guest_cid: u64,
    /// What the guest may connect to.
    pub ports: Ports,
    /// The most connections.
    pub connections: u16,
    /// See [`super::Options::memory`].
    pub memory: u64,
    /// The host socket.
    pub host_socket: OwnedFd,
    /// The timer for what takes too long.
    pub timer: Timer,
}

/// The host's side.
pub struct Host {
    /// The connections.
    pub table: Table,
    /// Answers to packets that belong to none.
    pub resets: VecDeque<Header>,
    /// Where it counts.
    pub metrics: DeviceMetrics,
    settings: Arc<Settings>,
    watch: Watch,
    ephemeral: Ephemeral,
    vectors: Vectors,
    expired: Vec<Place>,
    ticking: bool,
}

impl Host {
    /// Begins to watch the host socket.
    pub fn new(
        settings: &Arc<Settings>,
        generation: u16,
        watch: Watch,
        metrics: DeviceMetrics,
    ) -> Result<Self, Failure> {
        watch.add(
            settings.host_socket.as_fd(),
            HOST_SOCKET,
            Interest::READABLE,
        )?;
        watch.add(settings.timer.as_fd(), TIMER, Interest::READABLE)?;
        Ok(Self {
            table: Table::new(settings.connections, settings.memory, generation),
            resets: VecDeque::new(),
            metrics,
            settings: Arc::clone(settings),
            watch,
            ephemeral: Ephemeral::new(),
            vectors: Vectors::default(),
            expired: Vec::new(),
            ticking: false,
        })
    }

    /// Closes everything. Says where the tokens ended.
    pub fn end(mut self) -> u16 {
        self.table.clear(&self.watch);
        self.watch.remove(self.settings.host_socket.as_fd());
        self.watch.remove(self.settings.timer.as_fd());
        let _ = self.settings.timer.tick(false);
        self.metrics.open.set(0);
        self.table.generation()
    }

    /// Whether there may be something for the guest.
    pub fn has_work(&self) -> bool {
        !self.resets.is_empty() || self.table.has_turns()
    }

    /// What a packet from this connection has for a header, but for its length.
    pub fn header(&mut self, place: Place, op: Op) -> Header {
        let (buf_alloc, fwd_cnt) = match op {
            // Nothing is promised with an end.
            Op::Reset => (0, 0),
            _ => self.table.tell(place),
        };
        let (key, flags) = match self.table.get(place) {
            Some(connection) => (connection.key, connection.shutdown_flags()),
            None => (Key { host: 0, guest: 0 }, 0),
        };
        Header {
            src_cid: HOST_CID,
            dst_cid: self.settings.guest_cid,
            src_port: key.host,
            dst_port: key.guest,
            len: 0,
            kind: STREAM,
            op: op as u16,
            flags: if op == Op::Shutdown { flags } else { 0 },
            buf_alloc,
            fwd_cnt,
        }
    }

    /// Handles a packet from the guest. `complete` is whether it has as much data as it says; if this
    /// data is to be written to a connection, that is returned.
    pub fn packet(&mut self, header: &Header, complete: bool) -> Option<Place> {
        if header.src_cid != self.settings.guest_cid {
            // An answer would not reach whoever it may be.
            self.metrics.failures.add(1);
            return None;
        }
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            self.refuse(header);
            return None;
        }
        let op = Op::from_number(header.op);
        let Some(place) = self.table.find(key(header)) else {
            match op {
                Some(Op::Request) if complete => self.accept(header),
                _ => self.refuse(header),
            }
            return None;
        };
        if complete {
            self.packet_of(place, op, header)
        } else {
            self.reset(place);
            None
        }
    }

    fn packet_of(&mut self, place: Place, op: Option<Op>, header: &Header) -> Option<Place> {
        let connection = self.table.get(place)?;
        connection.hear_credit(op, header.buf_alloc, header.fwd_cnt);
        match (connection.phase, op) {
            (_, Some(Op::Reset)) => {
                self.guest_is_gone(place);
                return None;
            }
            (Phase::Connecting, Some(Op::Response)) => {
                connection.phase = Phase::Open;
                connection.deadline = None;
                // Most of the time something was written when it was made.
                connection.input = Input::Ready;
                connection.ask_if_stuck();
            }
            (Phase::Open, Some(Op::ReadWrite)) => {
                if connection.guest.sends() && connection.window.receive(header.len) {
                    self.table.queue(place);
                    return Some(place);
                }
                self.reset(place);
                return None;
            }
            (Phase::Open, Some(Op::CreditUpdate)) => {
                self.table.queue(place);
                return None;
            }
            (Phase::Open, Some(Op::CreditRequest)) => connection.pending.add(Op::CreditUpdate),
            (Phase::Open, Some(Op::Shutdown)) => connection.guest_ends(header.flags),
            (Phase::Closing, _) if connection.pending.has(Op::Reset) => return None,
            (Phase::Closing, Some(Op::Request)) => {
                // The guest has forgotten the one before.
                self.table.remove(place, &self.watch);
                self.accept(header);
                return None;
            }
            (Phase::Closing, Some(Op::Shutdown)) => {
                let both = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
                if header.flags & both == both {
                    connection.deadline = None;
                    connection.pending = Default::default();
                    connection.pending.add(Op::Reset);
                }
            }
            // What was under way when the host's side went.
            (Phase::Closing, Some(Op::ReadWrite | Op::CreditUpdate | Op::CreditRequest)) => {}
            _ => {
                self.reset(place);
                return None;
            }
        }
        self.settle(place);
        None
    }

    /// The guest wants to connect.
    fn accept(&mut self, header: &Header) {
        if self.table.is_full() || !self.settings.ports.contains(header.dst_port) {
            return self.refuse(header);
        }
        let Ok((ours, theirs)) = host_socket::stream_pair() else {
            return self.refuse(header);
        };
        let host_socket = self.settings.host_socket.as_fd();
        if host_socket::send(host_socket, header.dst_port, theirs.as_fd()).is_err() {
            return self.refuse(header);
        }
        let mut connection = Connection::new(key(header), Phase::Open, ours);
        connection.allowance.hear(header.buf_alloc, header.fwd_cnt);
        connection.pending.add(Op::Response);
        if let Some(place) = self.table.add(connection) {
            self.settle(place);
        }
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        self.metrics.failures.add(1);
        if header.op != Op::Reset as u16 && self.resets.len() < MAX_RESETS {
            self.resets.push_back(header.reset());
        }
    }

    /// Ends a connection whose guest broke the rules, or whose host's side is in error.
    pub fn reset(&mut self, place: Place) {
        self.metrics.failures.add(1);
        let Some(connection) = self.table.get(place) else {
            return;
        };
        connection.close(&self.watch);
        connection.phase = Phase::Closing;
        connection.deadline = None;
        connection.pending = Default::default();
        connection.pending.add(Op::Reset);
        self.table.queue(place);
    }

    /// The guest has forgotten the connection; the host's side still gets what was sent.
    fn guest_is_gone(&mut self, place: Place) {
        let Some(connection) = self.table.get(place) else {
            return;
        };
        if connection.phase != Phase::Open || !connection.has_buffered() {
            self.table.remove(place, &self.watch);
            return;
        }
        connection.guest_ends(SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        connection.phase = Phase::Lingering;
        connection.pending = Default::default();
        let key = connection.key;
        self.table.free_ports(key);
        self.settle(place);
    }

    /// Draws the consequences of whatever has happened to a connection.
    pub fn settle(&mut self, place: Place) {
        let Some(connection) = self.table.get(place) else {
            return;
        };
        let written = !connection.has_buffered();
        match connection.phase {
            Phase::Open if connection.guest == Side::Gone && written => {
                connection.close(&self.watch);
                connection.phase = Phase::Closing;
                connection.pending = Default::default();
                connection.pending.add(Op::Reset);
            }
            Phase::Open if connection.host == Side::Gone => {
                connection.close(&self.watch);
                connection.phase = Phase::Closing;
            }
            Phase::Open => {
                let room = connection.allowance.room();
                if connection.guest.sends() && connection.window.is_due(room) {
                    connection.pending.add(Op::CreditUpdate);
                }
            }
            Phase::Lingering if written => return self.table.remove(place, &self.watch),
            Phase::Connecting | Phase::Closing | Phase::Lingering => {}
        }
        if connection.watch(&self.watch, false) {
            self.table.queue(place);
        } else {
            self.cannot_watch(place);
        }
    }

    fn cannot_watch(&mut self, place: Place) {
        match self.table.get(place).map(|connection| connection.phase) {
            Some(Phase::Lingering) => self.table.remove(place, &self.watch),
            _ => self.reset(place),
        }
    }

    /// The guest was sent a SHUTDOWN.
    pub fn shutdown_was_sent(&mut self, place: Place) {
        if let Some(connection) = self.table.get(place)
            && connection.phase == Phase::Closing
        {
            connection.deadline = Some(Instant::now() + CLOSE);
            self.tick();
        }
    }

    /// The guest was sent a RST.
    pub fn reset_was_sent(&mut self, place: Place) {
        self.table.remove(place, &self.watch);
    }

    /// A socket is ready.
    pub fn socket_ready(&mut self, place: Place, ready: Ready) {
        let Some(connection) = self.table.get(place) else {
            return;
        };
        connection.is_ready(ready.readable, ready.hung_up);
        connection.ask_if_stuck();
        if ready.writable || ready.hung_up {
            connection.flush(&mut self.vectors);
        }
        self.settle(place);
    }

    /// After a socket was ready and what could be done was done: watches for what is left only.
    pub fn socket_served(&mut self, token: u32) {
        if let Some(place) = self.table.find_token(token)
            && let Some(connection) = self.table.get(place)
            && !connection.watch(&self.watch, true)
        {
            self.cannot_watch(place);
        }
    }

    /// Something has come through the host socket.
    pub fn host_socket_ready(&mut self) -> Result<(), Failure> {
        for _ in 0..HOST_SOCKET_TURN {
            match host_socket::receive(self.settings.host_socket.as_fd()) {
                Ok(Came::Connection(port, socket)) => self.connect(port, socket),
                Ok(Came::Lost) => self.metrics.failures.add(1),
                Ok(Came::Nothing) => break,
                Ok(Came::Closed) => {
                    self.watch.remove(self.settings.host_socket.as_fd());
                    break;
                }
                Err(why) => {
                    return Err(Failure::host("take a connection from the host socket")(why));
                }
            }
        }
        Ok(())
    }

    /// Connects to the guest. What can't be is closed, which the other end of the socket sees.
    fn connect(&mut self, port: u32, socket: OwnedFd) {
        let table = &self.table;
        let key = |host| Key { host, guest: port };
        let host = match table.is_full() {
            false => self
                .ephemeral
                .next(table.len(), |host| table.has(key(host))),
            true => None,
        };
        let Some(host) = host else {
            return self.metrics.failures.add(1);
        };
        let mut connection = Connection::new(key(host), Phase::Connecting, socket);
        connection.pending.add(Op::Request);
        connection.deadline = Some(Instant::now() + CONNECT);
        if let Some(place) = self.table.add(connection) {
            self.table.queue(place);
            self.tick();
        }
    }

    fn tick(&mut self) {
        if !self.ticking {
            // It can't fail: the time is a sound one, and the descriptor a timer.
            self.ticking = self.settings.timer.tick(true).is_ok();
        }
    }

    /// The timer has ticked.
    pub fn ticked(&mut self) {
        self.settings.timer.read();
        let mut expired = std::mem::take(&mut self.expired);
        let more = self.table.expired(Instant::now(), &mut expired);
        for place in expired.drain(..) {
            match self.table.get(place).map(|connection| connection.phase) {
                // An answer that comes later belongs to no connection.
                Some(Phase::Connecting) => self.table.remove(place, &self.watch),
                _ => self.reset(place),
            }
        }
        self.expired = expired;
        if !more {
            self.ticking = self.settings.timer.tick(false).is_err();
        }
    }
}

fn key(header: &Header) -> Key {
    Key {
        host: header.dst_port,
        guest: header.src_port,
    }
}
