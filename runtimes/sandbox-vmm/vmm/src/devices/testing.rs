//! A driver's side of a device, for tests and fuzzing: it negotiates through the registers and fills
//! rings in a guest's memory by hand, rightly or wrongly.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "in a test, what can't be is a failure of the test"
)]

pub mod descriptors;
mod fence;
pub mod hostile;
pub mod script;

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::events::{Events, Tokens};
use super::interrupt::Interrupt;
use super::transport::{Parts, Transport};
use super::{Device, Failure};
use crate::metrics::{DeviceMetrics, Shared};
use descriptors::Closing;
use fence::Fence;
use trefoil_virtio::Ram;

/// How much memory the guest has, in MiB.
const MEMORY: u32 = 16;
/// Each queue's rings lie here, one after the other.
const RINGS: u64 = 0x10_0000;
/// So far apart: room for 1024 descriptors and both rings.
const RING_SIZE: u64 = 0x8000;
/// From here on the driver's buffers lie.
pub const BUFFERS: u64 = 0x40_0000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A driver and its device.
pub struct Driver {
    pub ram: Arc<Ram>,
    pub device: Arc<Mutex<Transport>>,
    pub metrics: DeviceMetrics,
    pub interrupt: Arc<Interrupt>,
    events: Events,
    line: EventFd,
    queues: Vec<DriverQueue>,
    next_buffer: u64,
    /// Why the machine has ended, if it may.
    ended: Option<Mutex<Option<String>>>,
    /// The last to go but one: the memory is its.
    _fence: Fence,
    _closing: Closing,
}

struct DriverQueue {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// A chain that has been made available.
#[derive(Clone, Debug)]
pub struct Sent {
    pub head: u16,
    /// Address and length of each writable buffer.
    pub writable: Vec<(u64, u32)>,
}

impl Driver {
    /// Brings the device up with all features it offers but these.
    pub fn start(device: Box<dyn Device>, without: u64) -> Self {
        Self::bring_up(device, without, None)
    }

    /// As [`Driver::start`], with a device whose host side may fail: see [`Driver::ended`].
    pub fn start_mortal(device: Box<dyn Device>) -> Self {
        Self::bring_up(device, 0, Some(Mutex::default()))
    }

    fn bring_up(
        device: Box<dyn Device>,
        without: u64,
        ended: Option<Mutex<Option<String>>>,
    ) -> Self {
        let closing = Closing::closes();
        let (ram, fence) = Fence::around(u64::from(MEMORY) << 20);
        let shared = Shared::map(None).unwrap();
        let metrics = DeviceMetrics::new(&shared, 0);
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let events = Events::new().unwrap();
        let sizes = device.queues();
        let interrupt = Arc::new(Interrupt::new(line.try_clone().unwrap(), metrics.clone()));
        let parts = Parts {
            ram: Arc::clone(&ram),
            interrupt: Arc::clone(&interrupt),
            watch: events.watch_of_device(0),
            metrics: metrics.clone(),
        };
        let transport = Transport::new(device, parts).unwrap();
        transport.watch_kicks().unwrap();
        let mut driver = Self {
            ram,
            device: Arc::new(Mutex::new(transport)),
            metrics,
            interrupt,
            events,
            line,
            queues: sizes
                .iter()
                .map(|&size| DriverQueue {
                    size,
                    next_descriptor: 0,
                    available: 0,
                    used: 0,
                })
                .collect(),
            next_buffer: BUFFERS,
            ended,
            _fence: fence,
            _closing: closing,
        };
        driver.negotiate(without);
        driver
    }

    /// Goes through the driver's steps, after a reset again.
    pub fn negotiate(&mut self, without: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for half in 0..2 {
            self.write(0x14, half);
            let offered = self.read(0x10) & !((without >> (32 * half)) as u32);
            self.write(0x24, half);
            self.write(0x20, offered);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11, "the features were refused");
        for number in 0..self.queues.len() {
            let size = self.queues[number].size;
            self.queues[number] = DriverQueue {
                size,
                next_descriptor: 0,
                available: 0,
                used: 0,
            };
            let at = rings(number);
            self.ram
                .write_slice(&[0; RING_SIZE as usize], GuestAddress(at))
                .unwrap();
            self.write(0x30, number as u32);
            self.write(0x38, size.into());
            for (register, address) in [
                (0x80, at),
                (0x90, available_ring(number)),
                (0xa0, used_ring(number)),
            ] {
                self.write(register, address as u32);
                self.write(register + 4, (address >> 32) as u32);
            }
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.lock().unwrap().read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn write(&self, offset: u64, value: u32) {
        let outcome = {
            let mut device = self.device.lock().unwrap();
            device.write(offset, &value.to_le_bytes())
        };
        self.survive(outcome);
    }

    /// Takes note of what ended the machine, which only a mortal one's device may.
    pub(in crate::devices) fn survive(&self, outcome: Result<(), Failure>) {
        match (outcome, &self.ended) {
            (Ok(()), _) => {}
            (Err(why), Some(ended)) => {
                ended.lock().unwrap().get_or_insert(why.to_string());
            }
            (Err(why), None) => panic!("the machine has ended: {why}"),
        }
    }

    /// Why the machine has ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.ended.as_ref()?.lock().unwrap().clone()
    }

    /// Whether the device says that it has to be reset.
    pub fn needs_reset(&self) -> bool {
        self.read(0x70) & 0x40 != 0
    }

    /// A place for a buffer of the driver's.
    pub fn place(&mut self, length: u32) -> u64 {
        let at = self.next_buffer;
        self.next_buffer += u64::from(length.max(1)).next_multiple_of(16);
        assert!(self.next_buffer <= u64::from(MEMORY) << 20, "no more room");
        at
    }

    /// Makes a chain available: these bytes to be read, and room to write to.
    pub fn send(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Sent {
        let mut chain = Vec::new();
        for bytes in readable {
            let at = self.place(bytes.len() as u32);
            self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
            chain.push((at, bytes.len() as u32, 0));
        }
        let mut places = Vec::new();
        for &length in writable {
            let at = self.place(length);
            places.push((at, length));
            chain.push((at, length, WRITE));
        }
        let head = self.chain(queue, &chain);
        Sent {
            head,
            writable: places,
        }
    }

    /// Makes a chain of (address, length, flags) available, linked in this order.
    pub fn chain(&mut self, queue: usize, chain: &[(u64, u32, u16)]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_descriptor;
        for (number, &(address, length, flags)) in chain.iter().enumerate() {
            let index = self.queues[queue].next_descriptor;
            let next = (index + 1) % size;
            let last = number + 1 == chain.len();
            let flags = if last { flags } else { flags | NEXT };
            self.describe(queue, index, address, length, flags, next);
            self.queues[queue].next_descriptor = next;
        }
        self.offer(queue, head);
        head
    }

    /// Writes one descriptor, as it is given.
    pub fn describe(
        &self,
        queue: usize,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = rings(queue) + u64::from(index) * 16;
        self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let of = &mut self.queues[queue];
        let slot = available_ring(queue) + 4 + u64::from(of.available % of.size) * 2;
        self.ram.write_obj(head, GuestAddress(slot)).unwrap();
        of.available = of.available.wrapping_add(1);
        let index = GuestAddress(available_ring(queue) + 2);
        self.ram.write_obj(of.available, index).unwrap();
    }

    /// The next used chain: its head and how many bytes were written.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let of = &mut self.queues[queue];
        let index: u16 = self
            .ram
            .read_obj(GuestAddress(used_ring(queue) + 2))
            .unwrap();
        if index == of.used {
            return None;
        }
        let slot = used_ring(queue) + 4 + u64::from(of.used % of.size) * 8;
        of.used = of.used.wrapping_add(1);
        // Interrupt for each.
        let event = available_ring(queue) + 4 + u64::from(of.size) * 2;
        self.ram.write_obj(of.used, GuestAddress(event)).unwrap();
        let [head, written]: [u32; 2] = self.ram.read_obj(GuestAddress(slot)).unwrap();
        Some((head as u16, written))
    }

    /// The bytes of a sent chain's writable buffers.
    pub fn received(&self, sent: &Sent) -> Vec<u8> {
        let mut all = Vec::new();
        for &(at, length) in &sent.writable {
            let mut bytes = vec![0; length as usize];
            self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            all.extend(bytes);
        }
        all
    }

    /// Kicks a queue, as KVM would.
    pub fn kick(&self, queue: usize) {
        let device = self.device.lock().unwrap();
        device.kicks().nth(queue).unwrap().write(1).unwrap();
    }

    /// Lets the event loop run once if anything is ready.
    pub fn turn(&self) -> Result<(), (&'static str, Failure)> {
        let limit = EpollTimeout::from(0u8);
        self.events
            .turn(&[Arc::clone(&self.device)], &mut Tokens::new(), limit)
    }

    /// Kicks a queue and lets the loop run until a chain of it comes back; panics after 5 s.
    pub fn until_used(&mut self, queue: usize) -> (u16, u32) {
        self.kick(queue);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.turn().unwrap();
            if let Some(used) = self.used(queue) {
                return used;
            }
            assert!(Instant::now() < deadline, "no chain came back");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether nothing is ready for so long: a loop that does not sleep burns a processor.
    pub fn sleeps(&self, limit: Duration) -> bool {
        let began = Instant::now();
        let millis = EpollTimeout::try_from(limit).unwrap();
        self.events
            .turn(&[Arc::clone(&self.device)], &mut Tokens::new(), millis)
            .unwrap();
        began.elapsed() >= limit
    }

    /// How many interrupts came since the last time.
    pub fn interrupts(&self) -> u64 {
        assert!(self.line.as_raw_fd() >= 0);
        self.line.read().unwrap_or(0)
    }
}

fn rings(queue: usize) -> u64 {
    RINGS + queue as u64 * RING_SIZE
}

pub fn available_ring(queue: usize) -> u64 {
    rings(queue) + 0x4000
}

fn used_ring(queue: usize) -> u64 {
    rings(queue) + 0x5000
}
