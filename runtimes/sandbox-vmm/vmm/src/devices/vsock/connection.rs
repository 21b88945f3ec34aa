//! One connection: what each side has said, what is still to be said to the guest, and the data that
//! the host's side has not taken yet. It knows its socket but no queue.
//!
//! Both directions end on their own. Data goes before the end of its direction, always: the end is
//! noticed by reading the socket to its end, or by having written all that was buffered.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::super::watch::{Interest, Watch};
use super::credit::{Allowance, Window};
use super::packet::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::socket::{self, Moved, Vectors};
use super::state::{Input, Output, Pending, Phase, Side, Telling};
use nix::sys::socket::Shutdown;
use trefoil_virtio::{Broken, Buffers};

/// Buffers are made in steps of this many bytes, so that they are hardly larger than what was
/// promised.
const STEP: usize = 16 << 10;

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub key: Key,
    /// What its socket is watched as.
    pub token: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Until when that may last.
    pub deadline: Option<Instant>,
    /// What the guest is to get besides data.
    pub pending: Pending,
    /// What we may send.
    pub allowance: Allowance,
    /// What the guest may send.
    pub window: Window,
    telling: Telling,
    /// What is to be read from the socket.
    pub input: Input,
    /// The host's side; it sends until all it sent was read.
    pub host: Side,
    /// The guest.
    pub guest: Side,
    output: Output,
    socket: Option<OwnedFd>,
    buffer: VecDeque<u8>,
    watched: Option<Interest>,
    /// The socket has hung up, of which we would be told again and again.
    hung: bool,
}

impl Connection {
    /// A connection whose host's side is at the other end of `socket`.
    pub fn new(key: Key, phase: Phase, socket: OwnedFd) -> Self {
        Self {
            key,
            token: 0,
            phase,
            deadline: None,
            pending: Pending::default(),
            allowance: Allowance::default(),
            window: Window::default(),
            telling: Telling::default(),
            input: Input::default(),
            host: Side::default(),
            guest: Side::default(),
            output: Output::default(),
            socket: Some(socket),
            buffer: VecDeque::new(),
            watched: None,
            hung: false,
        }
    }

    /// The socket, until it is closed.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether what the host's side sends is still of interest.
    fn reads(&self) -> bool {
        self.phase == Phase::Open
            && self.host.sends()
            && self.guest.receives()
            && self.socket.is_some()
    }

    /// Whether data may be read for the guest now.
    pub fn can_read(&self) -> bool {
        self.has_input() && self.reads() && self.allowance.free() > 0
    }

    /// Whether the socket has data, or its end, as far as we know.
    fn has_input(&self) -> bool {
        self.input != Input::Awaited
    }

    /// Whether there is something for the guest.
    pub fn wants_turn(&self) -> bool {
        !self.pending.is_empty() || self.can_read()
    }

    /// Whether data from the guest waits for the host's side.
    pub fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Which directions a SHUTDOWN is to end.
    pub fn shutdown_flags(&self) -> u32 {
        let mut flags = 0;
        if !self.host.receives() {
            flags |= SHUTDOWN_RECEIVE;
        }
        if !self.host.sends() {
            flags |= SHUTDOWN_SEND;
        }
        flags
    }

    /// Takes over the credit in a packet of the guest's.
    pub fn hear_credit(&mut self, op: Option<Op>, buf_alloc: u32, fwd_cnt: u32) {
        self.allowance.hear(buf_alloc, fwd_cnt);
        if op == Some(Op::CreditUpdate) {
            match self.telling {
                Telling::Unknown | Telling::Unasked => self.telling = Telling::Unasked,
                Telling::Asked(at) => {
                    self.telling = Telling::Unknown;
                    // Another packet was faster: what was sent by its credit is not in this answer.
                    if at != self.allowance.sent() {
                        self.ask_if_stuck();
                    }
                }
            }
        }
    }

    /// Asks the guest for its credit where nothing goes on without it; once, and not at all if it is
    /// known to tell by itself, as Linux's guests do: they answer at once, which helps nobody.
    pub fn ask_if_stuck(&mut self) {
        let stuck = self.has_input() && self.reads() && self.allowance.free() == 0;
        if stuck && self.telling == Telling::Unknown {
            self.telling = Telling::Asked(self.allowance.sent());
            self.pending.add(Op::CreditRequest);
        }
    }

    /// Takes note that `count` bytes were read for the guest, which had `room` for them.
    pub fn was_read(&mut self, count: usize, room: usize) {
        self.allowance.send(count);
        // Less than there was room for is all there was. Whatever it may have been, we are told of
        // what is left, as long as we watch.
        self.input = match count == room {
            true => Input::Bulk,
            false => Input::Awaited,
        };
        self.ask_if_stuck();
    }

    /// The host's side has ended its direction.
    pub fn read_end(&mut self) {
        self.input = Input::Awaited;
        self.host.end_sending();
        self.hung = false;
        self.pending.add(Op::Shutdown);
        if self.socket().is_some_and(|fd| !socket::is_heard(fd)) {
            self.go_deaf();
        }
    }

    /// The host's side takes nothing any more; what waited for it is dropped.
    pub fn go_deaf(&mut self) {
        self.window.forward(self.buffer.len());
        self.buffer = VecDeque::new();
        if self.host.receives() {
            self.host.end_receiving();
            self.pending.add(Op::Shutdown);
        }
    }

    /// The guest has ended directions, by the flags of its SHUTDOWN.
    pub fn guest_ends(&mut self, flags: u32) {
        if flags & SHUTDOWN_RECEIVE != 0 && self.guest.receives() {
            self.guest.end_receiving();
            self.input = Input::Awaited;
            // From now on it matters whether the other side is still there.
            self.hung = false;
            if let Some(fd) = self.socket() {
                socket::shutdown(fd, Shutdown::Read);
            }
        }
        if flags & SHUTDOWN_SEND != 0 {
            self.guest.end_sending();
        }
        self.end_if_written();
    }

    fn end_if_written(&mut self) {
        let is_all = !self.guest.sends() && self.buffer.is_empty();
        if is_all && self.output == Output::Open {
            self.output = Output::Ended;
            if let Some(fd) = self.socket() {
                socket::shutdown(fd, Shutdown::Write);
            }
        }
    }

    /// The socket has become ready.
    pub fn is_ready(&mut self, readable: bool, hung_up: bool) {
        self.hung |= hung_up;
        if self.reads() {
            if (readable || hung_up) && !self.has_input() {
                self.input = Input::Ready;
            }
        } else if hung_up && self.phase == Phase::Open {
            // We don't listen to it any more, so that it is not only one direction that has ended. The
            // guest may know of the other one already.
            self.host.end_sending();
            self.pending.add(Op::Shutdown);
            self.go_deaf();
        }
    }

    /// Buffers what the socket did not take.
    pub fn keep(&mut self, data: &mut Buffers) -> Result<(), Broken> {
        if !self.host.receives() {
            self.window.forward(data.len());
            return Ok(());
        }
        let length = self.buffer.len() + data.len();
        if length > self.buffer.capacity() {
            let more = length.next_multiple_of(STEP) - self.buffer.len();
            self.buffer.reserve_exact(more);
        }
        // By way of here, as the guest may change its memory meanwhile.
        let mut part = [0; 4096];
        while !data.is_empty() {
            let count = data.len().min(part.len());
            let part = part.get_mut(..count).ok_or(Broken::Short)?;
            data.read(part)?;
            data.skip(count);
            self.buffer.extend(&*part);
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub fn flush(&mut self, vectors: &mut Vectors) {
        if self.buffer.is_empty() {
            return;
        }
        vectors.clear();
        let (one, two) = self.buffer.as_slices();
        for part in [one, two] {
            let part = [libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            }];
            vectors.add(&part, 0, usize::MAX);
        }
        let Some(fd) = self.socket() else {
            return;
        };
        // SAFETY: the buffers are our own, which nobody changes meanwhile.
        match unsafe { vectors.send(fd) } {
            Moved::Bytes(count) => {
                self.window.forward(count);
                if count >= self.buffer.len() {
                    self.buffer = VecDeque::new();
                } else {
                    self.buffer.drain(..count);
                }
            }
            Moved::Later => {}
            Moved::Gone => self.go_deaf(),
        }
        self.end_if_written();
    }

    /// Has what is to be known of the socket watched. Interest that would be told of in vain is
    /// taken back only if `exactly`: most of the time it is wanted again before it is told.
    ///
    /// `false` if the kernel refuses.
    pub fn watch(&mut self, watch: &Watch, exactly: bool) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        if self.phase == Phase::Connecting {
            return true;
        }
        let mut interest = Interest {
            readable: self.reads() && !self.has_input(),
            writable: !self.buffer.is_empty(),
        };
        if let (Some(watched), false) = (self.watched, exactly) {
            interest.readable |= watched.readable && self.reads();
        }
        let wanted = match interest {
            Interest {
                readable: false,
                writable: false,
            } if self.hung => None,
            interest => Some(interest),
        };
        if wanted == self.watched {
            return true;
        }
        let fd = socket.as_fd();
        let done = match (self.watched, wanted) {
            (None, Some(wanted)) => watch.add(fd, self.token, wanted).is_ok(),
            (Some(_), Some(wanted)) => watch.change(fd, self.token, wanted).is_ok(),
            (_, None) => {
                watch.remove(fd);
                true
            }
        };
        if done {
            self.watched = wanted;
        }
        done
    }

    /// Closes the socket, with what was to be written to it.
    pub fn close(&mut self, watch: &Watch) {
        if let Some(socket) = self.socket.take() {
            // Whoever handed it to us may still have it too, so that closing does not do it.
            if self.watched.take().is_some() {
                watch.remove(socket.as_fd());
            }
        }
        self.input = Input::Awaited;
        self.buffer = VecDeque::new();
    }
}
