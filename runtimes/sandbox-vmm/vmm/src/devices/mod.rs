//! The devices a guest sees, all of them virtio over memory-mapped registers but the serial port.
//!
//! A device is a [`Device`]: what it is, what it can do, and what it does when a queue is kicked or
//! a descriptor of its own is ready. The registers, the negotiation and the interrupt are
//! [`transport`]'s; the rings are [`trefoil_virtio`]'s; who calls whom when is [`events`]'.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, OASIS, and its driver in Linux 6.12.

pub mod block;
mod device;
pub mod events;
mod failure;
pub mod fs;
pub mod interrupt;
pub mod net;
pub mod rng;
pub mod serial;
#[cfg(any(test, fuzzing))]
pub mod testing;
pub mod transport;
pub mod vacant;
pub mod vsock;
pub mod watch;

pub use device::{Active, Device, Queue, read_bytes};
pub use failure::Failure;
