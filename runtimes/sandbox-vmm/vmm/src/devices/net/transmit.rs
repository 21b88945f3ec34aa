//! From the guest to the tap: one `writev` for each packet, straight from the guest's buffers.

use super::packets::{BATCH, Counts, HEADER, MAX_PACKET, MIN_FRAME, SIGNAL_EVERY};
use super::tap::{Moved, Tap};
use crate::devices::Queue;
use trefoil_virtio::{Broken, Chain};

/// What is left to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing until the driver kicks, or the queue has kicked itself.
    Kick,
    /// The tap takes no more; the packet that did not fit is the queue's next again.
    Full,
    /// The interface has been removed.
    Gone,
}

/// The queue of packets to be sent.
pub(super) struct Transmit {
    queue: Queue,
    chain: Chain,
}

impl Transmit {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            queue,
            chain: Chain::default(),
        }
    }

    /// The queue has to be looked at, though nobody kicked.
    pub(super) fn kick_again(&self) {
        self.queue.kick_again();
    }

    /// Sends what is there, a queue's size of packets at most.
    pub(super) fn turn(&mut self, tap: &mut Tap, counts: &mut Counts) -> Result<After, Broken> {
        self.queue.hush()?;
        for number in 1..=BATCH {
            if !self.queue.pop(&mut self.chain)? {
                self.queue.signal()?;
                match self.queue.listen()? {
                    true => continue,
                    false => return Ok(After::Kick),
                }
            }
            let length = self.chain.readable.len();
            let moved = if (HEADER + MIN_FRAME..=MAX_PACKET).contains(&length) {
                // SAFETY: the chain's buffers lie in the guest's memory, which the queue keeps.
                unsafe { tap.write(self.chain.readable.iovecs()) }
            } else {
                Moved::Failed
            };
            match moved {
                Moved::Packet(_) => counts.packet(length - HEADER),
                Moved::Failed => counts.dropped += 1,
                Moved::Later | Moved::Gone => {
                    self.queue.put_back();
                    self.queue.signal()?;
                    return Ok(match moved {
                        Moved::Gone => After::Gone,
                        _ => After::Full,
                    });
                }
            }
            self.queue.push(self.chain.head, 0)?;
            if number % SIGNAL_EVERY == 0 {
                self.queue.signal()?;
            }
        }
        self.queue.signal()?;
        self.queue.kick_again();
        Ok(After::Kick)
    }
}
