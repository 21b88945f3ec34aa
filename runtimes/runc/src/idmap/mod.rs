//! User namespaces and id-mapped mounts: what libcontainer leaves out of them, done before it runs.
//!
//! An id-mapped mount shows the files of another mount with other owners: a volume's root becomes the
//! root of a pod whose root is nobody on the host. Such mounts are made detached
//! ([`trefoil_core::detached`]), of a user namespace that holds the mapping ([`mapping`]). What has to have a path for a while, because
//! libcontainer or the kernel takes nothing else, gets it in a mount namespace of our own
//! ([`private`]): never on the host, where a crash would leave it and containerd, clearing the bundle
//! away, would delete a volume's files through it.
//!
//! [`mounts`] and [`namespace`] are a container's, [`layers`] its root filesystem's.

mod layers;
mod mapping;
mod mounts;
mod namespace;
mod private;
#[cfg(test)]
mod tests;

pub use layers::{mount, take_options};
pub use mounts::{Prepared, prepare};
