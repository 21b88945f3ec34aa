//! A virtqueue as a device uses it: chains of the guest's buffers come out, used ones go back.
//!
//! All that the guest wrote into its rings is checked here: a [`Chain`] holds host addresses that
//! lie in the guest's memory, all of the readable ones before the writable ones, at most
//! [`MAX_BUFFERS`] of them. What a guest changes while a chain is being looked at changes the
//! bytes, never where they are.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use crate::ram::Ram;

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

/// One of an active device's queues.
pub struct Queue {
    ring: virtio_queue::Queue,
    ram: Arc<Ram>,
    kick: EventFd,
    interrupt: Arc<Interrupt>,
    /// The used ring's index when the driver was last considered for an interrupt.
    signalled: u16,
}

impl Queue {
    /// Takes a ring that the driver has set up.
    pub fn new(
        ring: virtio_queue::Queue,
        ram: Arc<Ram>,
        kick: EventFd,
        interrupt: Arc<Interrupt>,
    ) -> Self {
        Self {
            signalled: ring.next_used(),
            ring,
            ram,
            kick,
            interrupt,
        }
    }

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
    pub fn put_back(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Hands a chain back to the driver, with `written` bytes in its writable part.
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

    /// Interrupts the driver, if it wants that, for what was pushed since the last time.
    pub fn signal(&mut self) -> Result<(), Broken> {
        if self.wants_signal()? {
            self.interrupt.used();
        }
        Ok(())
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
    pub fn has_more(&self) -> Result<bool, Broken> {
        self.ring
            .avail_idx(&*self.ram, Ordering::Acquire)
            .map(|index| index.0 != self.ring.next_avail())
            .map_err(|_| Broken::Ring)
    }

    /// Has the device called for this queue again, after others had their turn.
    pub fn kick_again(&self) {
        // It fails only where the counter is full, and then a kick is under way.
        drop(self.kick.write(1));
    }

    /// The ring, for a device that is handled by another process.
    pub fn ring(&self) -> &virtio_queue::Queue {
        &self.ring
    }

    /// What the driver kicks.
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
    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// Buffers in the guest's memory, in order, as the host addresses that system calls take.
///
/// They stay valid as long as the [`Ram`] that the queue holds; a device that keeps a chain past
/// its queue keeps an `Arc` of that too.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    list: Vec<libc::iovec>,
    length: usize,
}

// SAFETY: the addresses are of a mapping that is shared with the guest anyway; nothing in here is
// tied to a thread.
unsafe impl Send for Buffers {}

// SAFETY: as above; what they point to is only reached by copies and by the kernel.
unsafe impl Sync for Buffers {}

impl Buffers {
    fn clear(&mut self) {
        self.list.clear();
        self.length = 0;
    }

    /// Whether they hold nothing.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds what lies at an address of the guest's.
    pub fn add(&mut self, ram: &Ram, address: GuestAddress, length: usize) -> Result<(), Broken> {
        if length == 0 {
            return Ok(());
        }
        // A buffer may cross from one region into the next, where they touch.
        for slice in GuestMemoryBackend::get_slices(ram, address, length) {
            let slice = slice.map_err(|_| Broken::Address)?;
            self.list.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.length += length;
        Ok(())
    }

    /// How many bytes they hold together.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The buffers, for a system call that moves bytes to or from all of them.
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.list
    }

    /// Forgets the first `count` bytes, or all if there are fewer.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        let mut whole = 0;
        for buffer in &mut self.list {
            if left < buffer.iov_len {
                // SAFETY: the result is still inside the buffer.
                buffer.iov_base = unsafe { buffer.iov_base.cast::<u8>().add(left) }.cast();
                buffer.iov_len -= left;
                break;
            }
            left -= buffer.iov_len;
            whole += 1;
        }
        self.list.drain(..whole);
    }

    /// Forgets all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length = left;
        let mut kept = 0;
        for buffer in &mut self.list {
            if left == 0 {
                break;
            }
            buffer.iov_len = buffer.iov_len.min(left);
            left -= buffer.iov_len;
            kept += 1;
        }
        self.list.truncate(kept);
    }

    /// Copies from the beginning of the buffers.
    pub fn read(&self, bytes: &mut [u8]) -> Result<(), Broken> {
        self.copy(bytes.len(), |slice, at, count| {
            slice.copy_to(&mut bytes[at..at + count]);
        })
    }

    /// Copies `bytes` to the beginning of the buffers.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Broken> {
        self.copy(bytes.len(), |slice, at, count| {
            slice.copy_from(&bytes[at..at + count]);
        })
    }

    fn copy(
        &self,
        count: usize,
        mut copy: impl FnMut(&VolatileSlice<'_>, usize, usize),
    ) -> Result<(), Broken> {
        if count > self.length {
            return Err(Broken::Short);
        }
        let mut done = 0;
        for buffer in &self.list {
            if done == count {
                break;
            }
            let part = buffer.iov_len.min(count - done);
            // SAFETY: the buffer lies in the guest's mapped memory (see `add`), which lives as long
            // as we do. The guest may change it meanwhile, which volatile accesses allow for.
            let slice = unsafe { VolatileSlice::new(buffer.iov_base.cast(), part) };
            copy(&slice, done, part);
            done += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::rng::Rng;
    use super::super::testing::{BUFFERS, Driver, INDIRECT, NEXT, WRITE};
    use super::MAX_BUFFERS;

    /// Kicks a queue with one chain, whose table has so many descriptors, each like this one and the
    /// last without a next one. Whether the device is broken by it.
    fn breaks(count: usize, length: u32, last_next: Option<u16>) -> bool {
        let mut driver = Driver::start(Box::new(Rng::new()), 0);
        let mut table = Vec::new();
        for number in 1..=count {
            let last = number == count;
            let next = last_next.filter(|_| last).unwrap_or(number as u16);
            let flags = match last && last_next.is_none() {
                true => WRITE,
                false => WRITE | NEXT,
            };
            table.extend((BUFFERS - 16).to_le_bytes());
            table.extend(length.to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend(next.to_le_bytes());
        }
        let at = GuestAddress(BUFFERS);
        driver.ram.write_slice(&table, at).expect("write");
        driver.chain(0, &[(BUFFERS, table.len() as u32, INDIRECT)]);
        driver.kick(0);
        driver.turn().expect("turn");
        let broken = driver.needs_reset();
        assert_eq!(driver.used(0).is_none(), broken);
        broken
    }

    #[test]
    fn a_chain_has_an_end_that_is_not_far() {
        for length in [0, 1] {
            assert!(!breaks(MAX_BUFFERS, length, None));
            assert!(breaks(MAX_BUFFERS + 1, length, None));
            assert!(breaks(65535, length, None));
        }
    }

    #[test]
    fn a_chain_that_comes_back_to_itself_has_none() {
        for (count, next) in [(1, 0), (5, 0), (5, 4), (600, 3), (5, 5), (5, 65535)] {
            for length in [0, 1] {
                assert!(breaks(count, length, Some(next)), "{count} {next}");
            }
        }
        // The same in the queue itself.
        let mut driver = Driver::start(Box::new(Rng::new()), 0);
        for index in 0..4 {
            driver.describe(0, index, BUFFERS, 1, WRITE | NEXT, (index + 1) % 4);
        }
        driver.offer(0, 0);
        driver.kick(0);
        driver.turn().expect("turn");
        assert!(driver.needs_reset());
    }
}
