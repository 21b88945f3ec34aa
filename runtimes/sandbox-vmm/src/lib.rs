//! microVM pods: the host side. The core's traits, with a machine ([`trefoil_vmm`]) in place of the
//! pod's namespaces and the agent in its guest in place of libcontainer.
//!
//! A pod is one machine, as large as the pod, that ends with it. What a container's configuration says
//! of the host is translated ([`specification`]) or refused by name; nothing of it is ignored.
//!
//! It runs on the shim's one thread and never blocks it. Nothing that a guest or its VMM says is
//! trusted: not to be well formed, not to come at all.
//!
//! Start reading at [`runtime`], then [`sandbox`]. Below them each folder uses those after it: [`container`],
//! [`content`], [`guest`], [`machine`], [`host`].

mod container;
mod content;
mod guest;
mod host;
#[cfg(test)]
mod hostile;
mod machine;
mod programs;
mod provider;
mod runtime;
mod sandbox;
mod settings;
mod specification;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use content::sources::{GuestVolume, HostVolume, LayerDisk, Listener, Sources};
pub use machine::profile::{FileServer, Profile, Scratch, Unshared};
pub use provider::MicroVms;
pub use runtime::MicroVm;
pub use settings::Settings;
