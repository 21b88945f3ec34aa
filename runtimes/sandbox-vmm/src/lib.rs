//! microVM pods: the host side. The core's traits, with a machine ([`trefoil_vmm`]) in place of the
//! pod's namespaces and the agent in its guest in place of libcontainer.
//!
//! A pod is one machine, as large as the pod, that ends with it. What a container's configuration says
//! of the host is translated ([`specification`]) or refused by name; nothing of it is ignored.
//!
//! It runs on the shim's one thread and never blocks it. Nothing that a guest or its VMM says is
//! trusted: not to be well formed, not to come at all.
//!
//! Start reading at [`runtime`], then [`sandbox`].

mod agent;
mod cgroup;
mod cleanup;
mod clock;
mod console;
mod container;
mod disks;
mod forward;
mod guest;
#[cfg(test)]
mod hostile;
mod identity;
mod kills;
mod limited;
mod machine;
mod network;
mod parts;
mod phases;
mod process;
mod provider;
mod rootfs;
mod runtime;
mod sandbox;
mod share;
mod size;
mod specification;
mod stats;
mod streams;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use provider::MicroVms;
