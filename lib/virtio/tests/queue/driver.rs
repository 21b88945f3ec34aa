//! A driver's side of one queue: a table of descriptors and two rings in a guest's memory, written by hand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use trefoil_virtio::{Broken, Chain, Interrupt, Queue, Ram};
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// How many descriptors the queue has.
pub const SIZE: u16 = 16;

/// Where its parts are.
pub const TABLE: u64 = 0x1000;
pub const AVAILABLE: u64 = 0x2000;
pub const USED: u64 = 0x3000;

/// Where tables of their own may be, and buffers.
pub const INDIRECT_TABLE: u64 = 0x4000;
pub const BUFFERS: u64 = 0x8000;

/// Two regions touch here, and the second ends there.
pub const SEAM: u64 = 0x1_0000;
pub const END: u64 = 0x1_8000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor, as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

/// Counts.
#[derive(Clone, Default)]
pub struct Count(Rc<Cell<u32>>);

impl Interrupt for Count {
    fn used(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// The driver, and the queue that it has set up.
pub struct Driver {
    pub ram: Arc<Ram>,
    pub queue: Queue<Count>,
    interrupts: Count,
    available: u16,
}

/// Two regions that touch, and one by itself far above.
pub fn memory() -> Arc<Ram> {
    let ranges = [
        (GuestAddress(0), SEAM as usize),
        (GuestAddress(SEAM), (END - SEAM) as usize),
        (GuestAddress(1 << 32), 0x1000),
    ];
    Arc::new(Ram::from_ranges(&ranges).expect("memory"))
}

impl Driver {
    /// With or without the feature that both sides say when they want to hear of the other.
    pub fn new(event_index: bool) -> Self {
        Self::at(event_index, [TABLE, AVAILABLE, USED])
    }

    /// With its table and rings at these places.
    pub fn at(event_index: bool, [table, available, used]: [u64; 3]) -> Self {
        let mut ring = Ring::new(SIZE).expect("ring");
        ring.try_set_desc_table_address(GuestAddress(table))
            .expect("table");
        ring.try_set_avail_ring_address(GuestAddress(available))
            .expect("ring");
        ring.try_set_used_ring_address(GuestAddress(used))
            .expect("ring");
        ring.set_event_idx(event_index);
        ring.set_ready(true);
        let ram = memory();
        let interrupts = Count::default();
        let kick = EventFd::new(libc::EFD_NONBLOCK).expect("event");
        Self {
            queue: Queue::new(ring, Arc::clone(&ram), kick, interrupts.clone()),
            ram,
            interrupts,
            available: 0,
        }
    }

    /// Writes a descriptor into a table.
    pub fn describe(&self, table: u64, number: u16, descriptor: Descriptor) {
        let Descriptor {
            address,
            length,
            flags,
            next,
        } = descriptor;
        let at = table + 16 * u64::from(number);
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &length.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Writes these from the beginning of a table on.
    pub fn fill(&self, table: u64, descriptors: &[Descriptor]) {
        for (number, descriptor) in (0..).zip(descriptors) {
            self.describe(table, number, *descriptor);
        }
    }

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + 2 * u64::from(self.available % SIZE);
        self.put(slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.available.to_le_bytes());
    }

    /// What the device gets of the next chain, if there is one.
    pub fn pop(&mut self) -> Result<Option<Chain>, Broken> {
        let mut chain = Chain::default();
        Ok(self.queue.pop(&mut chain)?.then_some(chain))
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("put");
    }

    pub fn word(&self, at: u64) -> u16 {
        self.ram.read_obj(GuestAddress(at)).expect("word")
    }

    /// The used ring's index, and an element of it.
    pub fn used_index(&self) -> u16 {
        self.word(USED + 2)
    }

    pub fn used(&self, slot: u16) -> (u32, u32) {
        let at = GuestAddress(USED + 4 + 8 * u64::from(slot));
        let [head, written]: [u32; 2] = self.ram.read_obj(at).expect("element");
        (head, written)
    }

    /// How many interrupts there have been.
    pub fn interrupts(&self) -> u32 {
        self.interrupts.0.get()
    }
}

/// That buffers lie in the guest's memory: which of its addresses they are, as pairs with lengths.
pub fn guests(ram: &Ram, iovecs: &[libc::iovec]) -> Vec<(u64, usize)> {
    let regions: Vec<_> = GuestMemoryBackend::iter(ram)
        .map(|region| {
            let first = region.start_addr();
            let host = GuestMemoryBackend::get_host_address(ram, first).expect("mapped");
            (first.0, host as usize, region.len() as usize)
        })
        .collect();
    let guests = iovecs.iter().map(|iovec| {
        let at = iovec.iov_base as usize;
        let within = regions.iter().find_map(|&(first, host, length)| {
            let offset = at.checked_sub(host)?;
            let is_within = offset < length && iovec.iov_len <= length - offset;
            is_within.then_some((first + offset as u64, iovec.iov_len))
        });
        within.expect("a buffer is outside of the guest's memory")
    });
    guests.collect()
}
