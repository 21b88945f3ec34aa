//! A device's interrupt: what the driver reads to learn why, and the line.
//!
//! Linux's driver reads the reason, acknowledges it by writing it back, and then looks at all of
//! the device's queues if the "used" bit was set. That would be two exits for each interrupt; one of
//! them is saved: the "used" bit always reads as set, which costs the driver a look at a queue at
//! worst, so that nothing hangs on its acknowledgement, and KVM takes that itself.

use std::sync::atomic::{AtomicBool, Ordering};

use trefoil_virtio::Interrupt as _;
use vmm_sys_util::eventfd::EventFd;

use crate::metrics::DeviceMetrics;

/// A buffer has been used.
pub const USED: u32 = 1;
/// The configuration, or the device's status, has changed.
pub const CONFIGURATION: u32 = 2;

/// One device's interrupt.
#[derive(Debug)]
pub struct Interrupt {
    changed: AtomicBool,
    line: EventFd,
    metrics: DeviceMetrics,
}

impl Interrupt {
    /// An interrupt that is raised through `line`.
    pub fn new(line: EventFd, metrics: DeviceMetrics) -> Self {
        Self {
            changed: AtomicBool::new(false),
            line,
            metrics,
        }
    }

    /// Tells the driver to look at the configuration and the status again.
    pub fn configuration_changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.used();
    }

    /// What the driver reads as the reasons.
    pub fn reasons(&self) -> u32 {
        match self.changed.load(Ordering::Acquire) {
            true => USED | CONFIGURATION,
            false => USED,
        }
    }

    /// The driver has seen these reasons.
    pub fn acknowledge(&self, reasons: u32) {
        if reasons & CONFIGURATION != 0 {
            self.changed.store(false, Ordering::Release);
        }
    }

    /// The line, for a device that is handled by another process.
    pub fn line(&self) -> &EventFd {
        &self.line
    }
}

impl trefoil_virtio::Interrupt for Interrupt {
    #[inline]
    fn used(&self) {
        self.metrics.interrupts.add(1);
        self.line.used();
    }
}
