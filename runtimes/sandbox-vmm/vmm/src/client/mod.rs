//! All that a parent uses.
//!
//! It puts a [`Configuration`] together with the descriptors that it names ([`Handing`]), starts a
//! process ([`start`]) that is told by it what machine to be ([`Process::launch`]), asks it for a few
//! things ([`Request`]), reads what it counts ([`metrics`](crate::metrics)), and hears at last how it
//! ended ([`Exit`]). Connections to the guest go through the
//! [`HostSocket`](crate::devices::vsock::host_socket::HostSocket).

pub mod configuration;
pub mod control;
pub mod exit;
mod handing;
pub mod process;

pub use configuration::Configuration;
pub use control::{Message, Request};
pub use exit::{Exit, Stop};
pub use handing::{Full, Handing};
pub use process::{Process, Said, Start, start};
