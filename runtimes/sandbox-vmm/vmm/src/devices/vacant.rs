//! A place for a device that comes later: registers that say that nothing is there.
//!
//! Device number 0 is what VIRTIO has for that (1.2, 4.2.3.1): a driver looks at three registers and
//! leaves the rest alone. The device that comes is found by a driver that is told to look again; Linux's
//! is told by `/sys/bus/platform/drivers/virtio-mmio/bind`. So each device is met by its driver as if it
//! had always been there, with its own size, features and blocks, none of which a driver expects to
//! change.

use super::watch::Ready;
use super::{Active, Device, Failure};

/// Nothing yet.
pub struct Vacant {
    queues: &'static [u16],
}

impl Vacant {
    /// A place for a device with these queues.
    pub const fn new(queues: &'static [u16]) -> Self {
        Self { queues }
    }
}

impl Device for Vacant {
    fn kind(&self) -> u32 {
        0
    }

    fn name(&self) -> &'static str {
        "vacant"
    }

    fn queues(&self) -> &'static [u16] {
        self.queues
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_configuration(&self, _offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    // A guest whose driver does not look at the number gets a device that answers nothing.

    fn activate(&mut self, _active: Active) -> Result<(), Failure> {
        Ok(())
    }

    fn kicked(&mut self, _queue: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn ready(&mut self, _token: u32, _ready: Ready) -> Result<(), Failure> {
        Ok(())
    }

    fn reset(&mut self) {}
}
