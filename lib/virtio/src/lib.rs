//! Virtqueues, as a device's side uses them: the guest's memory, the rings in it, and the interrupt.
//!
//! Two processes serve a guest's queues: the VMM, whose devices take requests from them, and the file
//! server, which is a vhost-user back end. Both read what a guest wrote, so all that is checked of it is
//! checked here, once.
//!
//! It makes no memory, knows no device and no transport: a queue that a driver has set up comes in as
//! [`virtio_queue::Queue`], whoever has negotiated it.
//!
//! Start reading at [`queue`].

pub mod buffers;
pub mod interrupt;
pub mod memory;
pub mod queue;

pub use buffers::Buffers;
pub use interrupt::Interrupt;
pub use memory::Ram;
pub use queue::{Broken, Chain, MAX_BUFFERS, Queue};
