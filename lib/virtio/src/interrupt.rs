//! How a driver is told that its device has used buffers.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// A queue's way to its driver.
pub trait Interrupt {
    /// Tells the driver that buffers have been used. It is not waited for.
    fn used(&self);
}

/// A vhost-user back end's: the front end has whoever interrupts the guest wait at the other end.
impl Interrupt for EventFd {
    #[inline]
    fn used(&self) {
        // It fails only where the counter is full, and then an interrupt is under way.
        drop(self.write(1));
    }
}

impl<T: Interrupt> Interrupt for Arc<T> {
    #[inline]
    fn used(&self) {
        T::used(self);
    }
}
