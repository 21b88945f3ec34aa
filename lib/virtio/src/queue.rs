//! A virtqueue as a device uses it: chains of the guest's buffers come out, used ones go back.
//!
//! All that the guest wrote into its rings is checked here: a [`Chain`] holds host addresses that
//! lie in the guest's memory, all of the readable ones before the writable ones, at most
//! [`MAX_BUFFERS`] of them. What a guest changes while a chain is being looked at changes the
//! bytes, never where they are.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::{Buffers, Interrupt, Ram};

/// The most buffers one chain may have, empty ones included: a table of the driver's has room for
/// 65535, and to look at all of them in each of a queue's chains would take seconds.
pub const MAX_BUFFERS: usize = 1024;

/// What is wrong with what the guest put into a queue. The device asks to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// the ring can't be read or written
    #[error("the ring can't be read or written")]
    Ring,
    /// a chain of descriptors does not end
    #[error("a chain of descriptors does not end as it should")]
    Chain,
    /// a buffer is not in the guest's memory
    #[error("a buffer is not in the guest's memory")]
    Address,
    /// a readable buffer follows a writable one
    #[error("a readable buffer follows a writable one")]
    Order,
    /// a chain has more buffers than any request needs
    #[error("a chain has more than {MAX_BUFFERS} buffers")]
    Buffers,
    /// a request is shorter than its header or lacks its answer's place
    #[error("a request has no room for its header or its answer")]
    Short,
}

/// One of an active device's queues, which interrupts its driver by an `I`.
pub struct Queue<I> {
    rings: Rings,
    interrupt: I,
}

/// What a queue is without its interrupt. (All that is worth optimising is here, and so compiled once
/// and as this crate is, whoever uses it.)
pub struct Rings {
    ring: virtio_queue::Queue,
    ram: Arc<Ram>,
    kick: EventFd,
    /// The used ring's index when the driver was last considered for an interrupt.
    signalled: u16,
}

impl<I: Interrupt> Queue<I> {
    /// Takes a ring that the driver has set up.
    pub fn new(ring: virtio_queue::Queue, ram: Arc<Ram>, kick: EventFd, interrupt: I) -> Self {
        let rings = Rings {
            signalled: ring.next_used(),
            ring,
            ram,
            kick,
        };
        Self { rings, interrupt }
    }

    /// Interrupts the driver, if it wants that, for what was pushed since the last time.
    #[inline]
    pub fn signal(&mut self) -> Result<(), Broken> {
        if self.rings.wants_signal()? {
            self.interrupt.used();
        }
        Ok(())
    }
}

impl<I> Deref for Queue<I> {
    type Target = Rings;

    #[inline]
    fn deref(&self) -> &Rings {
        &self.rings
    }
}

impl<I> DerefMut for Queue<I> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Rings {
        &mut self.rings
    }
}

impl Rings {
    /// Takes the next chain that the driver has made available; `false` if there is none.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        chain.clear();
        let found = {
            let mut available = self.ring.iter(&*self.ram).map_err(|_| Broken::Ring)?;
            available.next()
        };
        let Some(mut descriptors) = found else {
            return Ok(false);
        };
        chain.head = descriptors.head_index();
        let mut complete = false;
        for (number, descriptor) in descriptors.by_ref().enumerate() {
            if number == MAX_BUFFERS {
                return Err(Broken::Buffers);
            }
            complete = !descriptor.has_next();
            let length = descriptor.len() as usize;
            let buffers = match (descriptor.is_write_only(), chain.writable.is_empty()) {
                (true, _) => &mut chain.writable,
                (false, true) => &mut chain.readable,
                (false, false) => return Err(Broken::Order),
            };
            buffers.add(&self.ram, descriptor.addr(), length)?;
        }
        // The iterator ends at whatever it can't follow, too.
        if !complete {
            return Err(Broken::Chain);
        }
        Ok(true)
    }

    /// Puts the chain taken last back, to be taken again.
    #[inline]
    pub fn put_back(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Hands a chain back to the driver, with `written` bytes in its writable part.
    #[inline]
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        self.push_all(&[(head, written)])
    }

    /// Hands several chains back at once: the driver sees all of them or none, as it has to where
    /// they hold parts of one packet. There are no more of them than the queue's size.
    pub fn push_all(&mut self, used: &[(u16, u32)]) -> Result<(), Broken> {
        let mut index = self.ring.next_used();
        for &(head, written) in used {
            let slot = index.checked_rem(self.ring.size()).ok_or(Broken::Ring)?;
            let element = [u32::from(head).to_le(), written.to_le()];
            self.write_used(4 + 8 * u64::from(slot), |ram, at| {
                ram.write_obj(element, at)
            })?;
            index = index.wrapping_add(1);
        }
        self.ring.set_next_used(index);
        self.write_used(2, |ram, at| ram.store(index.to_le(), at, Ordering::Release))
    }

    fn write_used(
        &self,
        offset: u64,
        write: impl FnOnce(&Ram, GuestAddress) -> Result<(), vm_memory::GuestMemoryError>,
    ) -> Result<(), Broken> {
        let at = self.ring.used_ring().checked_add(offset);
        write(&self.ram, GuestAddress(at.ok_or(Broken::Ring)?)).map_err(|_| Broken::Ring)
    }

    fn read_available(&self, offset: u64) -> Result<u16, Broken> {
        let at = self.ring.avail_ring().checked_add(offset);
        self.ram
            .load(GuestAddress(at.ok_or(Broken::Ring)?), Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|_| Broken::Ring)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last time. For a device
    /// that raises one for several queues: they share the line, and Linux looks at all of them.
    pub fn wants_signal(&mut self) -> Result<bool, Broken> {
        let index = self.ring.next_used();
        let pushed = index.wrapping_sub(self.signalled);
        if pushed == 0 {
            return Ok(false);
        }
        self.signalled = index;
        // What was pushed is there for the driver before we look whether it is waiting.
        fence(Ordering::SeqCst);
        Ok(if self.ring.event_idx_enabled() {
            // It waits for the index to go past this one.
            let event = self.read_available(4 + 2 * u64::from(self.ring.size()))?;
            index.wrapping_sub(event).wrapping_sub(1) < pushed
        } else {
            u32::from(self.read_available(0)?) & VRING_AVAIL_F_NO_INTERRUPT == 0
        })
    }

    /// The size the driver chose.
    #[inline]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Asks the driver to kick for what it makes available from now on. `true` if something is
    /// there already, for which no kick will come.
    pub fn listen(&mut self) -> Result<bool, Broken> {
        self.ring
            .enable_notification(&*self.ram)
            .map_err(|_| Broken::Ring)
    }

    /// Tells the driver that kicks are not needed for now.
    pub fn hush(&mut self) -> Result<(), Broken> {
        self.ring
            .disable_notification(&*self.ram)
            .map_err(|_| Broken::Ring)
    }

    /// Whether the driver has made something available that was not taken yet.
    #[inline]
    pub fn has_more(&self) -> Result<bool, Broken> {
        self.ring
            .avail_idx(&*self.ram, Ordering::Acquire)
            .map(|index| index.0 != self.ring.next_avail())
            .map_err(|_| Broken::Ring)
    }

    /// Has the device called for this queue again, after others had their turn.
    #[inline]
    pub fn kick_again(&self) {
        // It fails only where the counter is full, and then a kick is under way.
        drop(self.kick.write(1));
    }

    /// The ring, for a device that is handled by another process.
    #[inline]
    pub fn ring(&self) -> &virtio_queue::Queue {
        &self.ring
    }

    /// What the driver kicks.
    #[inline]
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }
}

/// A chain of the guest's buffers. Kept and filled again, it allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// Its number, with which it is handed back.
    pub head: u16,
    /// What the device reads.
    pub readable: Buffers,
    /// What it writes.
    pub writable: Buffers,
}

impl Chain {
    #[inline]
    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}
