//! A guest and a host that keep to the rules, in any order and at any time, and what must hold then.
//!
//! The rules are the protocol's: nothing is sent without credit, before a connection is there, or
//! after the end of its direction. All else is a matter of chance: who connects, writes, reads,
//! stops, ends a direction or goes away, and when the device and the guest's driver come to it.
//!
//! What must hold at every step:
//!
//! - each packet belongs to a connection, at a time when it may come;
//! - bytes arrive in order, each once, and none that was not sent;
//! - neither side is sent more than it has room for, and no promise is taken back;
//! - a direction ends after the last of its bytes, a connection for a reason, and both only if
//!   somebody ended them.
//!
//! And when everybody has read all there is:
//!
//! - nothing is missing that was sent to somebody who still listened;
//! - both sides know of every end, and a guest that may send again knows that;
//! - of connections that are over nothing is left.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::super::super::testing::script::Script;
use super::super::packet::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::super::{Options, TX};
use super::{Guest, PORT, Packet, RX_COUNT, Socket};

const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/// Of which the device has more than enough for.
const MOST_CONNECTIONS: usize = 8;
/// From when on an unanswered connection may have been given up: a little less than the device waits.
const PATIENCE: Duration = Duration::from_millis(1900);
/// So many turns without a change are rest.
const REST: usize = 4;
/// So many turns are too many, though in each no more than a guest's room may be moved.
const NO_REST: usize = 20_000;

/// What the guest thinks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has asked for it.
    Asking,
    /// It was asked, and has not answered.
    Asked,
    /// It is there.
    Open,
    /// It is not there: refused, reset by either side, or given up.
    Over,
}

/// One direction, as bytes that each follow from their place.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    seed: u8,
    sent: usize,
    arrived: usize,
}

impl Flow {
    fn byte(self, at: usize) -> u8 {
        (at ^ at >> 8).wrapping_mul(31) as u8 ^ self.seed
    }

    fn next(&self, count: usize) -> Vec<u8> {
        (self.sent..self.sent + count)
            .map(|at| self.byte(at))
            .collect()
    }

    fn arrive(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            assert!(self.arrived < self.sent, "a byte came that nobody sent");
            assert_eq!(byte, self.byte(self.arrived), "at {}", self.arrived);
            self.arrived += 1;
        }
    }

    fn is_whole(self) -> bool {
        self.arrived == self.sent
    }
}

#[derive(Debug)]
struct Connection {
    state: State,
    since: Instant,
    socket: Socket,
    /// Whether the guest tells of its credit by itself, or only if it is asked.
    tells: bool,
    /// The host's end, from when it has it until it drops it.
    stream: Option<UnixStream>,
    to_guest: Flow,
    to_host: Flow,
    /// What the guest has ended, by the flags of its SHUTDOWNs.
    guest_ended: u32,
    /// The guest has sent a RST.
    guest_reset: bool,
    /// What the host has ended: it receives no more, it sends no more.
    host_ended: u32,
    host_dropped: bool,
    /// What the guest was told of that.
    told: u32,
    /// The host has seen the end of what the guest sends.
    host_at_end: bool,
}

impl Connection {
    fn new(state: State, socket: Socket, number: usize, stream: Option<UnixStream>) -> Self {
        let flow = |seed: usize| Flow {
            seed: ((number * 2 + seed) * 37) as u8,
            ..Flow::default()
        };
        Self {
            state,
            since: Instant::now(),
            socket,
            tells: number & 1 == 0,
            stream,
            to_guest: flow(0),
            to_host: flow(1),
            guest_ended: 0,
            guest_reset: false,
            host_ended: 0,
            host_dropped: false,
            told: 0,
            host_at_end: false,
        }
    }

    /// Whether the guest may send data now.
    fn guest_sends(&self) -> bool {
        self.state == State::Open && self.guest_ended & SHUTDOWN_SEND == 0 && self.told != BOTH
    }

    /// Whether the host takes what the guest sends, now and later.
    fn host_listens(&self) -> bool {
        self.stream.is_some() && self.host_ended & SHUTDOWN_RECEIVE == 0
    }

    /// Whether it may have been given up, as nobody answered in time.
    fn is_late(&self) -> bool {
        self.since.elapsed() > PATIENCE
    }

    /// Whether each direction was ended, by one side or the other.
    fn is_over(&self) -> bool {
        let ended =
            |by_guest, by_host| self.guest_ended & by_guest != 0 || self.host_ended & by_host != 0;
        ended(SHUTDOWN_RECEIVE, SHUTDOWN_SEND) && ended(SHUTDOWN_SEND, SHUTDOWN_RECEIVE)
    }

    /// Whether a RST may come now.
    fn may_be_reset(&self) -> bool {
        match self.state {
            State::Asking => self.socket.host < PORT,
            // An answer to what was under way.
            State::Over => true,
            State::Asked => false,
            State::Open => {
                // Answered too late; or the host has gone, with or without reading all; or there
                // is nothing left to be done.
                self.is_late() || self.host_dropped || self.guest_ended == BOTH
            }
        }
    }
}

/// All of it.
pub struct Model {
    guest: Guest,
    all: Vec<Connection>,
    /// Those from the guest that have not come out of the host socket.
    at_host_socket: VecDeque<usize>,
    /// How much there is of everything that changes.
    steps: usize,
}

impl Model {
    pub fn new() -> Self {
        let options = Options {
            connections: 32,
            memory: 1 << 20,
            ..Guest::options()
        };
        Self {
            guest: Guest::bare(options),
            all: Vec::new(),
            at_host_socket: VecDeque::new(),
            steps: 0,
        }
    }

    /// Does what the script says, and then brings everything to its end.
    pub fn play(mut self, script: &mut Script<'_>) {
        while let Some(what) = script.byte() {
            self.step(what, script);
        }
        self.rest();
        self.check();
        self.end();
    }

    fn step(&mut self, what: u8, script: &mut Script<'_>) {
        let room = self.all.len() < MOST_CONNECTIONS;
        let which = usize::from(what >> 4) % self.all.len().max(1);
        match what & 15 {
            0 if room => self.guest_connects(script),
            1 if room => self.host_connects(),
            0..=2 => self.answer(which, script.below(8) > 0),
            3 | 4 => {
                let amount = amount(script);
                self.guest_writes(which, amount);
            }
            5 => self.guest_ends(which, 1 + script.number(1) as u32 % 3),
            6 if script.below(4) == 0 => self.guest_resets(which),
            7 | 8 => {
                let amount = amount(script);
                self.host_writes(which, amount);
            }
            9 => {
                let amount = amount(script);
                self.host_reads(which, amount);
            }
            10 => self.host_ends(which, script.number(1)),
            11 => self.guest.give(script.number(1) as u16 % 32),
            12 => {
                for _ in 0..=script.number(1) % 16 {
                    self.hear();
                }
            }
            13 => self.guest.driver.kick(TX),
            _ => self.turn(),
        }
    }

    fn guest_connects(&mut self, script: &mut Script<'_>) {
        let number = self.all.len();
        // Some to a port that nobody may connect to.
        let port = PORT - 1 + script.number(1) as u32 % 4;
        let mut socket = Socket::new(port, 100 + number as u32);
        socket.buf_alloc = script.of(&[1, 100, 4096, 5000, 64 << 10, 256 << 10]);
        socket.send(&mut self.guest, Op::Request, 0);
        if port >= PORT {
            self.at_host_socket.push_back(number);
        }
        let connection = Connection::new(State::Asking, socket, number, None);
        self.all.push(connection);
    }

    fn host_connects(&mut self) {
        let number = self.all.len();
        let port = 200 + number as u32;
        let stream = self.guest.host_socket.connect(port).unwrap();
        // Where it comes from is not known yet.
        let socket = Socket::new(0, port);
        let mut connection = Connection::new(State::Asking, socket, number, Some(stream));
        connection.socket.host = u32::MAX;
        self.all.push(connection);
    }

    /// Whether it is one from the host of which the guest has not heard.
    fn is_announced(connection: &Connection) -> bool {
        connection.socket.host != u32::MAX
    }

    fn answer(&mut self, which: usize, yes: bool) {
        let Some(connection) = self.all.get_mut(which) else {
            return;
        };
        if connection.state != State::Asked {
            return;
        }
        match yes {
            true => {
                connection.state = State::Open;
                connection.socket.send(&mut self.guest, Op::Response, 0);
            }
            false => self.reset(which),
        }
    }

    fn reset(&mut self, which: usize) {
        let connection = &mut self.all[which];
        connection.state = State::Over;
        connection.guest_reset = true;
        connection.socket.send(&mut self.guest, Op::Reset, 0);
    }

    fn guest_writes(&mut self, which: usize, amount: usize) {
        let Some(connection) = self.all.get_mut(which) else {
            return;
        };
        let count = amount.min(connection.socket.free() as usize);
        if count == 0 || !connection.guest_sends() {
            return;
        }
        let data = connection.to_host.next(count);
        connection.to_host.sent += count;
        connection.socket.write(&mut self.guest, &data);
    }

    fn guest_ends(&mut self, which: usize, flags: u32) {
        if let Some(connection) = self.all.get_mut(which)
            && connection.state == State::Open
        {
            connection.guest_ended |= flags;
            connection.socket.send(&mut self.guest, Op::Shutdown, flags);
        }
    }

    fn guest_resets(&mut self, which: usize) {
        if self
            .all
            .get(which)
            .is_some_and(|it| it.state == State::Open)
        {
            self.reset(which);
        }
    }

    fn host_writes(&mut self, which: usize, amount: usize) {
        let Some(connection) = self.all.get_mut(which) else {
            return;
        };
        let Some(stream) = &mut connection.stream else {
            return;
        };
        // A guest with room for little takes much in many turns.
        let amount = amount.min(connection.socket.buf_alloc as usize * 16);
        match stream.write(&connection.to_guest.next(amount)) {
            Ok(count) => connection.to_guest.sent += count,
            Err(why) if why.kind() == ErrorKind::WouldBlock => {}
            Err(why) => {
                let ended = connection.host_ended & SHUTDOWN_SEND != 0
                    || connection.guest_ended & SHUTDOWN_RECEIVE != 0
                    || connection.state == State::Over;
                let late = connection.is_late();
                assert!(ended || late, "writing failed: {why}, {connection:?}");
            }
        }
    }

    fn host_reads(&mut self, which: usize, amount: usize) {
        let Some(connection) = self.all.get_mut(which) else {
            return;
        };
        let Some(stream) = &mut connection.stream else {
            return;
        };
        let mut bytes = vec![0; amount];
        match stream.read(&mut bytes) {
            Ok(0) if amount > 0 => {
                let ended = connection.guest_ended & SHUTDOWN_SEND != 0
                    || connection.host_ended & SHUTDOWN_RECEIVE != 0
                    || connection.state == State::Over
                    || connection.is_late();
                assert!(ended, "an end that nobody made: {connection:?}");
                connection.host_at_end = true;
            }
            Ok(count) => {
                // Nothing, where nothing was asked for, may come after the end, too.
                assert!(count == 0 || !connection.host_at_end || !connection.host_listens());
                connection.to_host.arrive(&bytes[..count]);
                self.steps += 1;
            }
            Err(why) if why.kind() == ErrorKind::WouldBlock => {}
            // The device has closed its end with something unread in it.
            Err(why) => {
                assert_eq!(why.kind(), ErrorKind::ConnectionReset);
                let deaf = connection.guest_ended & SHUTDOWN_RECEIVE != 0;
                let over = connection.state == State::Over || connection.is_late();
                assert!(deaf || over, "{connection:?}");
            }
        }
    }

    fn host_ends(&mut self, which: usize, how: u64) {
        let Some(connection) = self.all.get_mut(which) else {
            return;
        };
        let Some(stream) = &connection.stream else {
            return;
        };
        let (flags, how) = match how % 4 {
            0 => (SHUTDOWN_RECEIVE, Shutdown::Read),
            1 => (SHUTDOWN_SEND, Shutdown::Write),
            2 => (BOTH, Shutdown::Both),
            _ => {
                connection.host_dropped = true;
                connection.stream = None;
                return;
            }
        };
        connection.host_ended |= flags;
        // It fails where the other end has gone.
        let _ = stream.shutdown(how);
    }

    /// Lets the device work, and takes what comes through the host socket.
    fn turn(&mut self) {
        self.guest.turn();
        while let Ok((port, stream)) = self.guest.host_socket.accept() {
            let number = self.at_host_socket.pop_front().unwrap();
            let connection = &mut self.all[number];
            assert_eq!(port, connection.socket.host);
            connection.stream = Some(stream);
            self.steps += 1;
        }
    }

    /// The guest takes the next packet, if there is one.
    fn hear(&mut self) -> bool {
        let Some(packet) = self.guest.take() else {
            return false;
        };
        self.steps += 1;
        let (host, port) = (packet.header.src_port, packet.header.dst_port);
        let which = self
            .all
            .iter()
            .position(|it| it.socket.guest == port)
            .unwrap();
        let connection = &mut self.all[which];
        if packet.op() == Op::Request {
            assert!(!Self::is_announced(connection), "asked for twice");
            connection.socket.host = host;
            connection.state = State::Asked;
        }
        connection.socket.hear(&packet);
        match packet.op() {
            Op::Request => {}
            Op::Reset => {
                assert!(connection.may_be_reset(), "{connection:?}");
                connection.state = State::Over;
            }
            // Under way as the guest ended it.
            _ if connection.state == State::Over => assert!(connection.guest_reset),
            Op::Response => {
                assert_eq!(connection.state, State::Asking);
                assert!(connection.socket.host >= PORT);
                connection.state = State::Open;
            }
            Op::ReadWrite => self.hear_data(which, &packet),
            Op::Shutdown => {
                let told = packet.header.flags;
                assert_eq!(told & !BOTH, 0);
                assert_eq!(connection.told & !told, 0, "taken back");
                let ended = match connection.host_dropped || connection.is_over() {
                    true => BOTH,
                    false => connection.host_ended,
                };
                assert_eq!(told & !ended, 0, "{told}: {connection:?}");
                let deaf = connection.guest_ended & SHUTDOWN_RECEIVE != 0;
                if told & SHUTDOWN_SEND != 0 && !deaf {
                    assert!(connection.to_guest.is_whole(), "cut: {connection:?}");
                }
                connection.told |= told;
            }
            Op::CreditUpdate => {}
            Op::CreditRequest => {
                connection.socket.send(&mut self.guest, Op::CreditUpdate, 0);
            }
        }
        true
    }

    fn hear_data(&mut self, which: usize, packet: &Packet) {
        let connection = &mut self.all[which];
        assert_eq!(connection.state, State::Open);
        assert_eq!(connection.told & SHUTDOWN_SEND, 0, "after the end");
        assert!(!packet.data.is_empty());
        connection.to_guest.arrive(&packet.data);
        connection.socket.fwd_cnt = connection.socket.received;
        if connection.tells {
            connection.socket.send(&mut self.guest, Op::CreditUpdate, 0);
        }
    }

    /// Everybody answers, reads and gives what there is, until nothing changes any more.
    fn rest(&mut self) {
        let mut quiet = 0;
        for round in 0.. {
            if quiet == REST {
                break;
            }
            assert!(round < NO_REST, "it does not come to rest: {:?}", self.all);
            let before = self.steps;
            self.guest.give(RX_COUNT);
            self.guest.driver.kick(TX);
            self.turn();
            while self.hear() {}
            for which in 0..self.all.len() {
                self.answer(which, true);
                // A guest that was told of both ends has nothing more to do, and says so.
                if self.all[which].state == State::Open && self.all[which].told == BOTH {
                    self.reset(which);
                    self.steps += 1;
                }
                self.host_reads(which, 256 << 10);
            }
            quiet = if self.steps == before { quiet + 1 } else { 0 };
        }
    }

    /// What must hold when all is quiet.
    fn check(&mut self) {
        assert!(self.at_host_socket.is_empty(), "a connection came nowhere");
        for which in 0..self.all.len() {
            let connection = &self.all[which];
            let why = format!("{connection:?}");
            if connection.is_late() && connection.state == State::Over {
                continue;
            }
            // All that the guest sent arrives, if it has gone since or not.
            if connection.host_listens() {
                assert!(connection.to_host.is_whole(), "{why}");
                let ended =
                    connection.guest_ended & SHUTDOWN_SEND != 0 || connection.state == State::Over;
                assert_eq!(connection.host_at_end, ended, "{why}");
            }
            if connection.state == State::Over {
                let reason = connection.guest_reset
                    || connection.socket.host < PORT
                    || connection.guest_ended == BOTH
                    || connection.host_dropped;
                assert!(reason, "{why}");
                continue;
            }
            assert_eq!(connection.state, State::Open, "{why}");
            assert_ne!(connection.guest_ended, BOTH, "{why}");
            if connection.guest_ended & SHUTDOWN_RECEIVE == 0 {
                assert!(connection.to_guest.is_whole(), "{why}");
                let ended = connection.host_ended & SHUTDOWN_SEND != 0;
                let told = connection.told & SHUTDOWN_SEND != 0;
                assert!(told == ended || connection.is_over(), "{why}");
            }
            assert!(!connection.host_dropped, "{why}");
            if connection.guest_sends() && connection.host_listens() {
                assert!(connection.socket.free() > 0, "{why}");
            }
        }
    }

    /// The guest goes away from all that is left.
    fn end(&mut self) {
        for which in 0..self.all.len() {
            if self.all[which].state != State::Over {
                self.reset(which);
            }
        }
        self.rest();
        for connection in &mut self.all {
            if let Some(stream) = &mut connection.stream {
                let why = stream.write(&[0]).map_err(|why| why.kind());
                assert_eq!(why, Err(ErrorKind::BrokenPipe), "still there");
            }
        }
        assert_eq!(self.guest.driver.metrics.open.get(), 0);
        assert!(!self.guest.driver.needs_reset());
    }
}

/// Mostly a little; sometimes more than any buffer holds.
fn amount(script: &mut Script<'_>) -> usize {
    match script.number(1) as usize {
        little @ 0..128 => little,
        more @ 128..240 => (more - 127) * 500,
        most => most * 1500,
    }
}
