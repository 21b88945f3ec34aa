//! What a device is.

use std::sync::Arc;

use trefoil_virtio::Ram;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::watch::{Ready, Watch};
use crate::metrics::DeviceMetrics;

/// One of an active device's queues.
pub type Queue = trefoil_virtio::Queue<Arc<Interrupt>>;

/// What a device gets when its driver is ready.
pub struct Active {
    /// As many as [`Device::queues`] says; those the driver did not set up are `None`.
    pub queues: Vec<Option<Queue>>,
    /// What the driver accepted of [`Device::features`] and of the transport's.
    pub features: u64,
    /// The guest's memory.
    pub ram: Arc<Ram>,
    /// For changes of the configuration; queues interrupt by themselves.
    pub interrupt: Arc<Interrupt>,
    /// Where descriptors of its own are watched.
    pub watch: Watch,
    /// Where it counts.
    pub metrics: DeviceMetrics,
}

/// What a virtio device is behind its registers.
///
/// Its methods are called one at a time, from any thread. None may block on anything that the guest
/// or a peer of the guest's decides about; those that the driver's own thread calls may wait for a
/// process that does the device's work, for a bounded time.
pub trait Device: Send {
    /// The virtio device number.
    fn kind(&self) -> u32;

    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// The largest size of each of its queues, each a power of two.
    fn queues(&self) -> &'static [u16];

    /// The device's own feature bits that it offers. The transport adds those of all devices.
    fn features(&self) -> u64;

    /// Reads the configuration space; what is beyond its end reads as zero.
    fn read_configuration(&self, offset: u64, bytes: &mut [u8]);

    /// Whether it is told of kicks. If not, another process does its work, and waits for what the
    /// driver kicks itself.
    fn takes_kicks(&self) -> bool {
        true
    }

    /// The driver is ready: from now on queues are kicked. `active` lives until [`Device::reset`].
    fn activate(&mut self, active: Active) -> Result<(), Failure>;

    /// The driver has kicked a queue, or there was something in it at activation. To be fair to
    /// other devices, no call handles more than a queue's size of chains: if there are more, it
    /// calls [`kick_again`](trefoil_virtio::queue::Rings::kick_again).
    fn kicked(&mut self, queue: usize) -> Result<(), Failure>;

    /// A descriptor that the device watches under `token` is ready.
    fn ready(&mut self, token: u32, ready: Ready) -> Result<(), Failure>;

    /// The device is broken: until [`Device::reset`] it is called no more, and is to watch nothing.
    /// Unlike that, this is on the thread of events, and waits for nothing that is under way.
    fn halt(&mut self) {
        self.reset();
    }

    /// Forgets the driver and all it asked for; nothing of the guest's memory is touched after it.
    /// It may wait for what is under way: the driver asked for it, and waits on its own thread.
    fn reset(&mut self);

    /// The machine ends in order: what the guest was told is safe is made so.
    fn shut_down(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Copies a configuration space as a driver reads it.
pub fn read_bytes(configuration: &[u8], offset: u64, bytes: &mut [u8]) {
    bytes.fill(0);
    let Some(rest) = usize::try_from(offset)
        .ok()
        .and_then(|offset| configuration.get(offset..))
    else {
        return;
    };
    let count = rest.len().min(bytes.len());
    bytes[..count].copy_from_slice(&rest[..count]);
}
