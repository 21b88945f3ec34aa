//! Mappings of user and group ids, and root filesystems that are shown through one.
//!
//! An id-mapped mount shows the files of another mount with other owners: a volume's root becomes the
//! root of a pod whose root is nobody on the host. Such mounts are made detached
//! ([`trefoil_os::detached`]), of a user namespace that holds the mapping ([`mapping`]). What has to
//! have a path for a while, because the kernel takes nothing else, gets it in a mount namespace of our
//! own ([`private`]): never on the host, where a crash would leave it and containerd, clearing the bundle
//! away, would delete files through it.
//!
//! [`layers`] are a container's root filesystem's; its volumes are in `root/binds.rs`.

mod held;
mod layers;
mod mapping;
mod private;
#[cfg(test)]
mod tests;

pub(crate) use held::held;
pub use layers::{mount, take_options};
pub(crate) use mapping::Mappings;
#[cfg(test)]
pub(crate) use mapping::parse;
