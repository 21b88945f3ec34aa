//! A virtio device's registers in memory (VIRTIO 1.2, 4.2): what it is, what the driver accepts,
//! where its queues are. No version but the modern one.
//!
//! The driver's steps are checked as far as going out of step could hurt us: queues can be changed
//! only before the driver is ready, and a device that asked for a reset is called only after it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Active, Device};
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::watch::{Ready, Watch};
use crate::devices::Queue;
use crate::metrics::DeviceMetrics;
use trefoil_virtio::Broken;
use trefoil_virtio::Ram;

/// The register a driver kicks a queue by, with the queue's number.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// What the driver reads to learn why it was interrupted.
pub const INTERRUPT_STATUS: u64 = 0x60;
/// What the driver writes to say that it knows.
pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
/// Where a device's configuration space begins.
const CONFIGURATION: u64 = 0x100;

const MAGIC: u32 = 0x7472_6976; // "virt"
const VERSION: u32 = 2;
const VENDOR: u32 = 0x4c46_5254; // "TRFL"

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// What every device of ours can do.
const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A queue as the driver sets it up.
struct Slot {
    ring: virtio_queue::Queue,
    kick: EventFd,
}

/// What a transport is made of, besides its device.
pub struct Parts {
    /// The guest's memory.
    pub ram: Arc<Ram>,
    /// The device's interrupt.
    pub interrupt: Arc<Interrupt>,
    /// Where its descriptors are watched.
    pub watch: Watch,
    /// Where it counts.
    pub metrics: DeviceMetrics,
}

/// A device behind its registers.
pub struct Transport {
    device: Box<dyn Device>,
    parts: Parts,
    slots: Vec<Slot>,
    offered: u64,
    accepted: u64,
    offered_half: u32,
    accepted_half: u32,
    selected: usize,
    status: u32,
    generation: u32,
}

impl Transport {
    /// Puts registers before a device.
    pub fn new(device: Box<dyn Device>, parts: Parts) -> std::io::Result<Self> {
        let mut slots = Vec::new();
        for &size in device.queues() {
            slots.push(Slot {
                ring: virtio_queue::Queue::new(size).map_err(std::io::Error::other)?,
                kick: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            });
        }
        parts.metrics.kind.set(device.kind().into());
        Ok(Self {
            offered: device.features() | COMMON_FEATURES,
            device,
            parts,
            slots,
            accepted: 0,
            offered_half: 0,
            accepted_half: 0,
            selected: 0,
            status: 0,
            generation: 0,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &'static str {
        self.device.name()
    }

    /// What kicks each queue: KVM is to signal it where the driver writes the queue's number to
    /// [`QUEUE_NOTIFY`].
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.slots.iter().map(|slot| &slot.kick)
    }

    /// Begins to watch the queues' kicks; once, before the guest runs.
    pub fn watch_kicks(&self) -> Result<(), Failure> {
        if !self.device.takes_kicks() {
            return Ok(());
        }
        for (number, slot) in self.slots.iter().enumerate() {
            // SAFETY: the descriptor is the slot's, which lives as long as we do.
            let fd = unsafe { BorrowedFd::borrow_raw(slot.kick.as_raw_fd()) };
            self.parts
                .watch
                .add_kick(fd, u32::try_from(number).unwrap_or(0))?;
        }
        Ok(())
    }

    /// Puts another device behind the registers, if it has the queues that these are for. A driver of
    /// the one before finds registers as after a reset; what it had asked for is never answered.
    pub fn replace(&mut self, device: Box<dyn Device>) -> bool {
        if device.queues() != self.device.queues() {
            return false;
        }
        self.reset();
        self.offered = device.features() | COMMON_FEATURES;
        self.parts.metrics.kind.set(device.kind().into());
        self.device = device;
        true
    }

    /// The machine ends in order.
    pub fn shut_down(&mut self) -> std::io::Result<()> {
        self.device.shut_down()
    }

    fn is_active(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }

    /// The driver kicked a queue.
    pub fn kicked(&mut self, queue: usize) -> Result<(), Failure> {
        let Some(slot) = self.slots.get(queue) else {
            return Ok(());
        };
        if !self.device.takes_kicks() {
            // It fails only where the counter is full, and then a kick is under way.
            drop(slot.kick.write(1));
            return Ok(());
        }
        // Level-triggered: a kick that is not read is told again.
        drop(slot.kick.read());
        if !self.is_active() {
            return Ok(());
        }
        self.parts.metrics.kicks.add(1);
        let outcome = self.device.kicked(queue);
        self.settle(outcome)
    }

    /// A descriptor of the device's is ready.
    pub fn ready(&mut self, token: u32, ready: Ready) -> Result<(), Failure> {
        if !self.is_active() {
            return Ok(());
        }
        let outcome = self.device.ready(token, ready);
        self.settle(outcome)
    }

    /// A guest that broke the rules gets a device that waits for a reset.
    fn settle(&mut self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        match outcome {
            Err(Failure::Guest(_)) => {
                self.parts.metrics.broken.add(1);
                self.device.halt();
                self.status |= NEEDS_RESET;
                self.parts.interrupt.configuration_changed();
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The driver reads a register. The two of the interrupt are not ours: they take no lock.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        self.parts.metrics.registers.add(1);
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.device.read_configuration(offset, bytes);
            return;
        }
        let value = match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.kind(),
            0x0c => VENDOR,
            0x10 => half(self.offered, self.offered_half),
            0x34 => self
                .slots
                .get(self.selected)
                .map_or(0, |slot| slot.ring.max_size().into()),
            0x44 => self
                .slots
                .get(self.selected)
                .map_or(0, |slot| slot.ring.ready().into()),
            0x70 => self.status,
            // No shared memory: a length of all ones.
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => self.generation,
            _ => 0,
        };
        // All registers are 32 bits wide; other accesses are nobody's.
        match bytes.try_into() {
            Ok::<&mut [u8; 4], _>(bytes) => *bytes = value.to_le_bytes(),
            Err(_) => bytes.fill(0),
        }
    }

    /// The driver writes a register.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.parts.metrics.registers.add(1);
        let Ok(bytes) = <[u8; 4]>::try_from(bytes) else {
            return Ok(());
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x14 => self.offered_half = value,
            0x20 => self.accept(value),
            0x24 => self.accepted_half = value,
            0x30 => self.selected = value as usize,
            // Where KVM does not do it.
            QUEUE_NOTIFY => return self.kicked(value as usize),
            0x70 => return self.set_status(value),
            _ => self.set_up_queue(offset, value),
        }
        Ok(())
    }

    fn accept(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 || self.accepted_half > 1 {
            return;
        }
        let shift = 32 * self.accepted_half;
        self.accepted &= !(u64::from(u32::MAX) << shift);
        self.accepted |= u64::from(value) << shift;
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        if self.status & (DRIVER_OK | FAILED | NEEDS_RESET) != 0 {
            return;
        }
        let Some(slot) = self.slots.get_mut(self.selected) else {
            return;
        };
        let ring = &mut slot.ring;
        // What can't be is left as it was; the ring is checked as a whole before it is used.
        match offset {
            0x38 => drop(ring.try_set_size(u16::try_from(value).unwrap_or(0))),
            0x44 => ring.set_ready(value == 1),
            0x80 => ring.set_desc_table_address(Some(value), None),
            0x84 => ring.set_desc_table_address(None, Some(value)),
            0x90 => ring.set_avail_ring_address(Some(value), None),
            0x94 => ring.set_avail_ring_address(None, Some(value)),
            0xa0 => ring.set_used_ring_address(Some(value), None),
            0xa4 => ring.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) -> Result<(), Failure> {
        if value == 0 {
            self.reset();
            return Ok(());
        }
        if value & FAILED != 0 {
            self.device.reset();
            self.status |= FAILED;
            return Ok(());
        }
        // One step after the other; bits are never taken back.
        let added = value & !self.status;
        let expected = match self.status & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK) {
            0 => ACKNOWLEDGE,
            ACKNOWLEDGE => DRIVER,
            s if s == ACKNOWLEDGE | DRIVER => FEATURES_OK,
            s if s == ACKNOWLEDGE | DRIVER | FEATURES_OK => DRIVER_OK,
            _ => return Ok(()),
        };
        if added != expected || self.status & (FAILED | NEEDS_RESET) != 0 {
            return Ok(());
        }
        match added {
            FEATURES_OK
                if self.accepted & !self.offered != 0
                    || self.accepted & 1 << VIRTIO_F_VERSION_1 == 0 =>
            {
                // The driver sees that the bit did not stay.
                Ok(())
            }
            DRIVER_OK => {
                self.status |= DRIVER_OK;
                let outcome = self.activate();
                self.settle(outcome)
            }
            _ => {
                self.status |= added;
                Ok(())
            }
        }
    }

    fn activate(&mut self) -> Result<(), Failure> {
        let event_index = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::new();
        for slot in &self.slots {
            if !slot.ring.ready() {
                queues.push(None);
                continue;
            }
            if !slot.ring.is_valid(&*self.parts.ram) {
                return Err(Broken::Ring.into());
            }
            let mut ring =
                virtio_queue::Queue::try_from(slot.ring.state()).map_err(|_| Broken::Ring)?;
            ring.set_event_idx(event_index);
            let kick = slot
                .kick
                .try_clone()
                .map_err(Failure::host("duplicate a queue's kick"))?;
            queues.push(Some(Queue::new(
                ring,
                Arc::clone(&self.parts.ram),
                kick,
                Arc::clone(&self.parts.interrupt),
            )));
        }
        self.device.activate(Active {
            queues,
            features: self.accepted,
            ram: Arc::clone(&self.parts.ram),
            interrupt: Arc::clone(&self.parts.interrupt),
            watch: self.parts.watch.clone(),
            metrics: self.parts.metrics.clone(),
        })
    }

    fn reset(&mut self) {
        self.device.reset();
        for slot in &mut self.slots {
            slot.ring.reset();
            drop(slot.kick.read());
        }
        self.accepted = 0;
        self.offered_half = 0;
        self.accepted_half = 0;
        self.selected = 0;
        self.status = 0;
        self.generation = self.generation.wrapping_add(1);
        self.parts.interrupt.acknowledge(u32::MAX);
    }
}

fn half(bits: u64, which: u32) -> u32 {
    let [low, high] = [bits & u64::from(u32::MAX), bits >> 32]
        .map(|half| u32::try_from(half).unwrap_or_default());
    match which {
        0 => low,
        1 => high,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::super::testing::Driver;
    use super::*;

    /// A device that breaks at each kick, and writes down what is done with it.
    struct Fragile(Arc<Mutex<Vec<&'static str>>>);

    impl Fragile {
        fn note(&self, what: &'static str) {
            let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            notes.push(what);
        }
    }

    impl Device for Fragile {
        fn kind(&self) -> u32 {
            4
        }

        fn name(&self) -> &'static str {
            "fragile"
        }

        fn queues(&self) -> &'static [u16] {
            &[16]
        }

        fn features(&self) -> u64 {
            0
        }

        fn read_configuration(&self, _offset: u64, bytes: &mut [u8]) {
            bytes.fill(0);
        }

        fn activate(&mut self, _active: Active) -> Result<(), Failure> {
            self.note("activate");
            Ok(())
        }

        fn kicked(&mut self, _queue: usize) -> Result<(), Failure> {
            self.note("kicked");
            Err(Broken::Ring.into())
        }

        fn ready(&mut self, _token: u32, _ready: Ready) -> Result<(), Failure> {
            Ok(())
        }

        fn halt(&mut self) {
            self.note("halt");
        }

        fn reset(&mut self) {
            self.note("reset");
        }
    }

    #[test]
    fn a_broken_device_is_halted_where_it_broke_and_reset_by_its_driver_only() {
        let notes = Arc::default();
        let mut driver = Driver::start(Box::new(Fragile(Arc::clone(&notes))), 0);
        notes.lock().expect("notes").clear();
        driver.kick(0);
        driver.turn().expect("turn");
        driver.kick(0);
        driver.turn().expect("turn");
        assert!(driver.needs_reset());
        assert_eq!(*notes.lock().expect("notes"), ["kicked", "halt"]);
        driver.negotiate(0);
        assert_eq!(notes.lock().expect("notes")[2..], ["reset", "activate"]);
        assert!(!driver.needs_reset());
    }

    #[test]
    fn a_queue_outside_of_memory_breaks_the_device_and_no_more() {
        use super::super::rng::Rng;
        let end = 16 << 20;
        // Descriptors, available ring, used ring: 16 of 16 bytes, 6 and 16 of 2, 6 and 16 of 8.
        for (register, size) in [(0x80, 256), (0x90, 6 + 32), (0xa0, 6 + 128)] {
            for (at, fits) in [
                (end - (size as u64).next_multiple_of(16), true),
                (end - 16, false),
                (end, false),
                (0xc000_0000, false),
                (u64::MAX - 15, false),
            ] {
                let mut driver = Driver::start(Box::new(Rng::new()), 0);
                driver.write(0x70, 0);
                for status in [1, 3] {
                    driver.write(0x70, status);
                }
                driver.write(0x24, 1);
                driver.write(0x20, 1);
                driver.write(0x70, 11);
                driver.write(0x30, 0);
                for (other, place) in [(0x80, 0x10_0000), (0x90, 0x10_4000), (0xa0, 0x10_5000)] {
                    let place = if other == register { at } else { place };
                    driver.write(other, place as u32);
                    driver.write(other + 4, (place >> 32) as u32);
                }
                driver.write(0x44, 1);
                driver.write(0x70, 15);
                assert_eq!(driver.needs_reset(), !fits, "{register:#x} at {at:#x}");
                driver.negotiate(0);
                driver.send(0, &[], &[8]);
                assert_eq!(driver.until_used(0).1, 8);
            }
        }
    }
}
