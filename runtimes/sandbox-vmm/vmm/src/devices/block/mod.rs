//! A disk: virtio-blk over a raw file or a block device of the host, or over several that are only
//! read.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the device: its options, features and configuration space |
//! | [`disk`] | the files or devices behind it, and what can be done with it, here and now |
//! | [`request`] | one request of the driver's: what it asks, step by step, and its answer |
//! | [`work`] | all requests under way, and a turn's worth of work on them |
//! | [`ring`] | doing the steps through io_uring, where the kernel allows |
//!
//! **What survives.** The disk has a write-back cache, the host's page cache. A write that was
//! answered is seen by every later read and survives the end of this process, however it ends. What
//! was written before a flush was asked for survives the end of the host once the flush is
//! answered: it is an `fdatasync` that has come back. A driver that turns the flush down gets a
//! write-through disk: each write is durable when it is answered.
//!
//! **One queue.** One thread does the work of all devices, and it is the kernel that works in
//! parallel; more queues would be more rings to look at for the same hands.
//!
//! **Direct I/O** is the opener's choice (`O_DIRECT`); then the guest's buffers have to be aligned as
//! the disk's blocks are, as Linux's are, or the request fails.

mod disk;
mod examine;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod options;
mod request;
mod ring;
mod step;
#[cfg(test)]
mod tests;
mod work;

use std::fs::File;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::watch::{Interest, Ready, Watch};
use super::{Active, Device, Failure, read_bytes};
use crate::devices::Queue;
use crate::metrics::DeviceMetrics;
use disk::Disk;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
pub use options::{Engine, Error, MOST_PARTS, Options};
use options::{MAX_RANGES, QUEUE_SIZE, SECTOR, SERIAL_SIZE};
pub use ring::MOST_WORKERS;
use work::Work;

/// The device's queues: see [`Device::queues`].
pub const QUEUES: &[u16] = &[QUEUE_SIZE];
/// A request's header and answer take one descriptor each.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// The most sectors the driver is asked to put into one of them: 1 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// How long the configuration space is, up to and with `write_zeroes_may_unmap`.
const CONFIGURATION_SIZE: usize = 60;

/// The device.
pub struct Block {
    features: u64,
    configuration: [u8; CONFIGURATION_SIZE],
    work: Work,
    active: Option<InUse>,
}

/// What the device has while a driver uses it.
struct InUse {
    queue: Queue,
    watch: Watch,
    metrics: DeviceMetrics,
}

impl Block {
    /// Makes a disk of raw images or block devices, one after the other: of one, or of several if it
    /// may only be read. All descriptors it will ever need are made here, so that it works in a jail
    /// that is closed later; in one that is closed, only [`Engine::Plain`] can be had.
    pub fn new(options: Options, files: Vec<File>) -> Result<Self, Error> {
        let mut serial = [0; SERIAL_SIZE];
        serial
            .get_mut(..options.serial.len())
            .ok_or(Error::Serial(options.serial.len()))?
            .copy_from_slice(options.serial.as_bytes());
        let disk = Disk::new(files, options.read_only, serial)?;
        Ok(Self {
            features: features(&disk),
            configuration: configuration(&disk),
            work: Work::new(disk, options.engine)?,
            active: None,
        })
    }

    /// Which engine is in use, and why io_uring is not, if it was only to be tried.
    pub fn engine(&self) -> (Engine, Option<&std::io::Error>) {
        self.work.engine()
    }

    fn turn(&mut self) -> Result<(), Failure> {
        match &mut self.active {
            Some(active) => self.work.turn(&mut active.queue, &active.metrics),
            None => Ok(()),
        }
    }
}

fn features(disk: &Disk) -> u64 {
    let mut features =
        1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_TOPOLOGY;
    features |= match disk.read_only() {
        true => 1 << VIRTIO_BLK_F_RO,
        false => 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
    };
    if disk.can_discard() {
        features |= 1 << VIRTIO_BLK_F_DISCARD;
    }
    features
}

/// `struct virtio_blk_config` (VIRTIO 1.2, 5.2.4).
fn configuration(disk: &Disk) -> [u8; CONFIGURATION_SIZE] {
    let mut space = [0; CONFIGURATION_SIZE];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    let blocks = disk.blocks();
    put(0, &(disk.size() / SECTOR).to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &blocks.logical.to_le_bytes());
    // How many logical blocks a physical one is, as a power of two; the smallest and the best sizes
    // to read and write are in logical blocks.
    let ratio = (blocks.physical / blocks.logical).max(1);
    put(24, &[u8::try_from(ratio.ilog2()).unwrap_or(0)]);
    let least = u16::try_from(blocks.least / blocks.logical).unwrap_or(0);
    put(26, &least.to_le_bytes());
    put(28, &(blocks.best / blocks.logical).to_le_bytes());
    put(34, &1u16.to_le_bytes());
    if !disk.read_only() {
        let sectors = blocks.physical / SECTOR as u32;
        put(36, &MAX_RANGE_SECTORS.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &sectors.max(1).to_le_bytes());
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
    }
    space
}

impl Device for Block {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &'static str {
        "block"
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_configuration(&self, offset: u64, bytes: &mut [u8]) {
        read_bytes(&self.configuration, offset, bytes);
    }

    fn activate(&mut self, active: Active) -> Result<(), Failure> {
        let Some(queue) = active.queues.into_iter().next().flatten() else {
            return Ok(());
        };
        let write_through = active.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        self.work.begin(write_through, active.ram)?;
        if let Some(ring) = self.work.ring() {
            active.watch.add(ring, 0, Interest::READABLE)?;
        }
        self.active = Some(InUse {
            queue,
            watch: active.watch,
            metrics: active.metrics,
        });
        Ok(())
    }

    fn kicked(&mut self, _queue: usize) -> Result<(), Failure> {
        self.turn()
    }

    fn ready(&mut self, _token: u32, _ready: Ready) -> Result<(), Failure> {
        self.turn()
    }

    fn halt(&mut self) {
        if let Some(active) = self.active.take() {
            if let Some(ring) = self.work.ring() {
                active.watch.remove(ring);
            }
            active.metrics.open.take(self.work.open() as u64);
        }
    }

    fn reset(&mut self) {
        self.halt();
        self.work.forget();
    }

    fn shut_down(&mut self) -> std::io::Result<()> {
        self.reset();
        self.work.flush()
    }
}
