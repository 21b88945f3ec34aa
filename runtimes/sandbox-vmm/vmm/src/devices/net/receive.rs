//! From the tap to the guest: one `readv` for each packet, straight into the guest's buffers.
//!
//! How long the next packet is, nobody can say before it is read, and what does not fit is lost. So
//! chains are taken from the ring ahead of packets, as many as the longest packet may need, and the
//! list of their buffers is kept from packet to packet: what one does not use is the next one's.
//! Behind them in the list comes memory of our own. When a packet reaches into that, because the
//! driver is short of buffers just now, it waits there until there are enough.

use std::collections::VecDeque;

use vm_memory::VolatileSlice;

use super::packets::{BATCH, Counts, HEADER, MAX_PACKET, SIGNAL_EVERY};
use super::tap::{Moved, Tap};
use crate::devices::Queue;
use trefoil_virtio::{Broken, Chain};

/// The most buffers in one `readv`, less the one of our own.
const MAX_BUFFERS: usize = libc::UIO_MAXIOV as usize - 1;
/// So many used ones may lie before the list's beginning until it is moved up.
const SLACK: usize = 256;
/// Where in its header a packet says over how many chains it goes.
const CHAINS: usize = 10;

/// What is left to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Go on when the tap has something.
    Tap,
    /// Go on when the driver kicks: it is to give buffers first.
    Kick,
    /// The interface has been removed.
    Gone,
}

/// What became of one packet.
enum Step {
    Done,
    Empty,
    Starved,
    Gone,
}

/// A chain that was taken and not handed back yet.
struct Held {
    head: u16,
    length: usize,
    buffers: usize,
}

/// A packet whose end did not fit.
#[derive(Clone, Copy)]
struct Late {
    /// All of it.
    length: usize,
    /// So much of it is in the guest's buffers, the rest in ours.
    placed: usize,
}

/// The queue of buffers for packets that arrive.
pub(super) struct Receive {
    queue: Queue,
    /// Whether a packet may go over several chains.
    mergeable: bool,
    /// How much room there should be before a packet is read.
    wanted: usize,
    chain: Chain,
    held: VecDeque<Held>,
    /// All buffers of those, from `first` on.
    buffers: Vec<libc::iovec>,
    first: usize,
    room: usize,
    spill: Box<[u8]>,
    late: Option<Late>,
    used: Vec<(u16, u32)>,
}

// SAFETY: the buffers' addresses are of a mapping that is shared with the guest anyway; nothing in
// here is tied to a thread.
unsafe impl Send for Receive {}

impl Receive {
    pub(super) fn new(queue: Queue, mergeable: bool, longest: usize) -> Self {
        Self {
            queue,
            mergeable,
            wanted: longest,
            chain: Chain::default(),
            held: VecDeque::new(),
            buffers: Vec::new(),
            first: 0,
            room: 0,
            spill: vec![0; MAX_PACKET + 1].into_boxed_slice(),
            late: None,
            used: Vec::new(),
        }
    }

    /// The queue has to be looked at, though nobody kicked.
    pub(super) fn kick_again(&self) {
        self.queue.kick_again();
    }

    /// Hands over what the tap has, a queue's size of packets at most.
    pub(super) fn turn(&mut self, tap: &mut Tap, counts: &mut Counts) -> Result<After, Broken> {
        self.queue.hush()?;
        for number in 1..=BATCH {
            match self.step(tap, counts)? {
                Step::Done if number % SIGNAL_EVERY == 0 => self.queue.signal()?,
                Step::Done => {}
                Step::Empty => {
                    self.queue.signal()?;
                    return Ok(After::Tap);
                }
                Step::Gone => {
                    self.queue.signal()?;
                    return Ok(After::Gone);
                }
                Step::Starved => {
                    self.queue.signal()?;
                    if !self.queue.listen()? {
                        return Ok(After::Kick);
                    }
                }
            }
        }
        self.queue.signal()?;
        if self.late.is_none() {
            return Ok(After::Tap);
        }
        // The tap may have nothing more to call us for.
        self.queue.kick_again();
        Ok(After::Kick)
    }

    fn step(&mut self, tap: &mut Tap, counts: &mut Counts) -> Result<Step, Broken> {
        if let Some(late) = self.late {
            return self.place(late, counts);
        }
        self.take(self.wanted)?;
        if self.held.is_empty() {
            return Ok(Step::Starved);
        }
        let length = match self.read(tap) {
            Moved::Packet(length) => length,
            Moved::Later => return Ok(Step::Empty),
            Moved::Gone => return Ok(Step::Gone),
            Moved::Failed => {
                counts.dropped += 1;
                return Ok(Step::Empty);
            }
        };
        if !(HEADER..=MAX_PACKET).contains(&length) || !self.mergeable && length > self.room {
            counts.dropped += 1;
            return Ok(Step::Done);
        }
        if length > self.room {
            let placed = self.room;
            return self.place(Late { length, placed }, counts);
        }
        self.hand_back(length, counts)?;
        Ok(Step::Done)
    }

    /// Puts a packet that did not fit where it belongs, once there is room.
    fn place(&mut self, late: Late, counts: &mut Counts) -> Result<Step, Broken> {
        self.late = Some(late);
        self.take(late.length)?;
        if self.room < late.length {
            if !self.is_full() {
                return Ok(Step::Starved);
            }
            // The driver can't give more than it has given, all of which is too little.
            self.late = None;
            counts.dropped += 1;
            return Ok(Step::Done);
        }
        self.late = None;
        let rest = late.length.saturating_sub(late.placed);
        self.put(late.placed, self.spill.get(..rest).unwrap_or_default());
        self.hand_back(late.length, counts)?;
        Ok(Step::Done)
    }

    /// Takes chains until there is room for `wanted` bytes, or there are no more.
    fn take(&mut self, wanted: usize) -> Result<(), Broken> {
        while !self.is_full() {
            let enough = match self.mergeable {
                true => self.room >= wanted,
                false => !self.held.is_empty(),
            };
            if enough || !self.queue.pop(&mut self.chain)? {
                break;
            }
            let all = self.chain.writable.iovecs();
            let taken = all.get(..MAX_BUFFERS - self.count()).unwrap_or(all);
            let length = taken.iter().map(|buffer| buffer.iov_len).sum();
            self.held.push_back(Held {
                head: self.chain.head,
                length,
                buffers: taken.len(),
            });
            self.buffers.extend_from_slice(taken);
            self.room += length;
        }
        Ok(())
    }

    /// Whether no more chains are to be taken: what the driver has given once it can't give again,
    /// and a system call takes only so many buffers.
    fn is_full(&self) -> bool {
        self.held.len() >= usize::from(self.queue.size()) || self.count() >= MAX_BUFFERS
    }

    fn count(&self) -> usize {
        self.buffers.len() - self.first
    }

    fn read(&mut self, tap: &mut Tap) -> Moved {
        self.buffers.push(libc::iovec {
            iov_base: self.spill.as_mut_ptr().cast(),
            iov_len: self.spill.len(),
        });
        // SAFETY: all but the last of the buffers lie in the guest's memory, which the queue keeps,
        // and the last one is ours alone, and bytes.
        let moved = unsafe { tap.read(self.buffers.get(self.first..).unwrap_or_default()) };
        self.buffers.pop();
        moved
    }

    /// Hands the chains that hold a packet back, all at once.
    fn hand_back(&mut self, length: usize, counts: &mut Counts) -> Result<(), Broken> {
        self.used.clear();
        let mut left = length;
        let mut gone = 0;
        for held in &self.held {
            let part = left.min(held.length);
            // No packet is as long as 4 GiB.
            self.used
                .push((held.head, u32::try_from(part).unwrap_or(u32::MAX)));
            left -= part;
            self.room -= held.length;
            gone += held.buffers;
            if left == 0 {
                break;
            }
        }
        // The kernel leaves this field alone; without mergeable buffers it is to be one.
        let chains = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        self.put(CHAINS, &chains.to_le_bytes());
        self.queue.push_all(&self.used)?;
        self.held.drain(..self.used.len());
        self.first += gone;
        if self.first == self.buffers.len() || self.first > SLACK {
            self.buffers.drain(..self.first);
            self.first = 0;
        }
        counts.packet(length - HEADER);
        Ok(())
    }

    /// Copies to where the packet's byte `offset` is.
    fn put(&self, mut offset: usize, mut bytes: &[u8]) {
        for buffer in self.buffers.get(self.first..).unwrap_or_default() {
            if bytes.is_empty() {
                break;
            }
            if offset >= buffer.iov_len {
                offset -= buffer.iov_len;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(buffer.iov_len - offset));
            // SAFETY: the offset is inside of the buffer, which lies in the guest's mapped memory,
            // and that the queue keeps. The guest may change it meanwhile, which volatile accesses
            // allow for.
            let slice =
                unsafe { VolatileSlice::new(buffer.iov_base.cast::<u8>().add(offset), part.len()) };
            slice.copy_from(part);
            bytes = rest;
            offset = 0;
        }
    }
}
