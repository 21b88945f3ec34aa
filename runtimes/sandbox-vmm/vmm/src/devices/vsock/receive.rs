//! The guest's rx queue: packets to the guest.
//!
//! Linux fills it with buffers of less than 4 KiB, one descriptor each. One call receives into many
//! of them at once, behind the places for their headers, which are written when it is known how
//! much there was. Buffers that were taken from the queue and turned out not to be needed are kept
//! for the next packet.

use std::collections::VecDeque;

use super::host::Host;
use super::packet::{self, Header, Op};
use super::socket::{MAX_BUFFERS, Moved, Vectors};
use super::state::{Input, Phase};
use super::table::Place;
use crate::devices::Queue;
use trefoil_virtio::{Broken, Chain};

/// Buffers for one call, of a connection of which little or nothing is known.
const FEW: usize = 8;
/// Buffers for one call, of a connection that has more to read than fits into a few.
const MANY: usize = 32;

/// The queue and the buffers taken from it.
pub struct Receive {
    /// The queue.
    pub queue: Queue,
    /// Taken from the queue and not used, in order.
    taken: VecDeque<Chain>,
    spare: Vec<Chain>,
    vectors: Vectors,
    used: Vec<(u16, u32)>,
    listening: bool,
}

impl Receive {
    /// Nothing is taken yet.
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            taken: VecDeque::new(),
            spare: Vec::new(),
            vectors: Vectors::default(),
            used: Vec::new(),
            listening: true,
        }
    }

    /// Sends the guest what there is for it, as far as there are buffers, each connection in its
    /// turn.
    pub fn run(&mut self, host: &mut Host) -> Result<(), Broken> {
        let mut budget = usize::from(self.queue.size());
        while host.has_work() {
            if budget == 0 {
                self.queue.kick_again();
                break;
            }
            if !self.take(1)? {
                // Somebody waits: now a kick is needed, and only now.
                self.listening = true;
                if self.queue.listen()? {
                    // A driver that changes its mind about what is there gets no more turns by it.
                    budget -= 1;
                    continue;
                }
                break;
            }
            if self.listening {
                self.listening = false;
                self.queue.hush()?;
            }
            let before = self.used.len();
            if let Some(header) = host.resets.pop_front() {
                self.use_next(host, &header)?;
            }
            if let Some(place) = host.table.next_turn()
                && !self.serve(host, place)?
            {
                host.table.queue_first(place);
            }
            budget = budget.saturating_sub((self.used.len() - before).max(1));
            // All packets of a turn at once: the driver is not woken in between.
            if self.used.len() >= MANY {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if !self.used.is_empty() {
            self.queue.push_all(&self.used)?;
            self.used.clear();
        }
        Ok(())
    }

    /// Takes buffers from the queue until there are `count`; whether there are any.
    fn take(&mut self, count: usize) -> Result<bool, Broken> {
        while self.taken.len() < count {
            let mut chain = self.spare.pop().unwrap_or_default();
            if !self.queue.pop(&mut chain)? {
                self.spare.push(chain);
                break;
            }
            if chain.writable.len() <= packet::SIZE {
                return Err(Broken::Short);
            }
            self.taken.push_back(chain);
        }
        Ok(!self.taken.is_empty())
    }

    /// Uses the next buffer, which holds as much data as the header says.
    fn use_next(&mut self, host: &Host, header: &Header) -> Result<(), Broken> {
        if let Some(chain) = self.taken.pop_front() {
            chain.writable.write(&header.bytes())?;
            let length = packet::SIZE as u32 + header.len;
            self.used.push((chain.head, length));
            self.spare.push(chain);
            host.metrics.packets_in.add(1);
        }
        Ok(())
    }

    /// One connection's turn: all packets without data, and one call for data. `false` if there were
    /// too few buffers.
    fn serve(&mut self, host: &mut Host, place: Place) -> Result<bool, Broken> {
        let first = [Op::Reset, Op::Request, Op::Response];
        if !self.send_pending(host, place, &first)? {
            return Ok(false);
        }
        if host.table.get(place).is_some_and(|it| it.can_read()) {
            if !self.take(1)? {
                return Ok(false);
            }
            self.read(host, place)?;
            host.settle(place);
        }
        let last = [Op::CreditUpdate, Op::CreditRequest, Op::Shutdown];
        if !self.send_pending(host, place, &last)? {
            return Ok(false);
        }
        host.table.queue(place);
        Ok(true)
    }

    fn send_pending(&mut self, host: &mut Host, place: Place, ops: &[Op]) -> Result<bool, Broken> {
        for &op in ops {
            if !host
                .table
                .get(place)
                .is_some_and(|connection| connection.pending.has(op))
            {
                continue;
            }
            if !self.take(1)? {
                return Ok(false);
            }
            let header = host.header(place, op);
            self.use_next(host, &header)?;
            if let Some(connection) = host.table.get(place) {
                connection.pending.take(op);
            }
            match op {
                Op::Reset => host.reset_was_sent(place),
                Op::Shutdown => host.shutdown_was_sent(place),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Reads what a connection's socket has, as far as buffers and credit go.
    fn read(&mut self, host: &mut Host, place: Place) -> Result<(), Broken> {
        let Some(connection) = host.table.get(place) else {
            return Ok(());
        };
        let bulk = connection.input == Input::Bulk;
        let credit = connection.allowance.free() as usize;
        self.take(if bulk { MANY } else { FEW })?;
        self.vectors.clear();
        let mut room = 0;
        for chain in &self.taken {
            let buffers = chain.writable.iovecs();
            if room > 0 && self.vectors.len() + buffers.len() > MAX_BUFFERS {
                break;
            }
            room += self.vectors.add(buffers, packet::SIZE, credit - room);
            if room == credit {
                break;
            }
        }
        let Some(socket) = connection.socket() else {
            return Ok(());
        };
        // SAFETY: the buffers lie in the guest's memory, which the queue keeps mapped and whose
        // content nobody relies on.
        match unsafe { self.vectors.receive(socket) } {
            Moved::Bytes(0) => connection.read_end(),
            Moved::Bytes(count) => {
                connection.was_read(count, room);
                return self.hand_over(host, place, count);
            }
            Moved::Later => {
                connection.input = Input::Awaited;
            }
            Moved::Gone => host.reset(place),
        }
        Ok(())
    }

    /// Makes packets of the `count` bytes that were read into the buffers taken.
    fn hand_over(&mut self, host: &mut Host, place: Place, count: usize) -> Result<(), Broken> {
        host.metrics.bytes_in.add(count as u64);
        let mut header = host.header(place, Op::ReadWrite);
        let mut left = count;
        while left > 0 {
            let Some(chain) = self.taken.front() else {
                return Err(Broken::Short);
            };
            let part = left.min(chain.writable.len().saturating_sub(packet::SIZE));
            header.len = u32::try_from(part).map_err(|_| Broken::Short)?;
            left -= part;
            self.use_next(host, &header)?;
        }
        // Whoever is connecting gets no data.
        debug_assert!(
            host.table
                .get(place)
                .is_some_and(|connection| connection.phase == Phase::Open)
        );
        Ok(())
    }
}
