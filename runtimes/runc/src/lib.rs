//! The namespace runtime: pods whose containers are processes on the host's kernel, told apart by
//! namespaces and held by cgroups. Inside a guest the same code makes the guest's containers.
//!
//! It makes a container's root ([`root`]) and its init ([`init`]) itself, as it runs further processes in
//! one ([`exec`]); the steps that these share are in [`setup`]. No path of a container's is ever resolved
//! from the host's root. It never speaks to containerd, and its server side never forks, blocks or changes
//! itself: see [`launcher`]. libcontainer is a library for three small things (`docs/libcontainer.md`).
//!
//! Start reading at [`launcher`], then its worker, [`init`] and [`root`].

mod container;
pub mod exec;
mod features;
#[cfg(test)]
mod fields;
mod gate;
mod holder;
mod hooks;
mod idmap;
mod init;
mod keyring;
mod launcher;
mod maker;
mod process;
mod provider;
mod root;
mod rootfs;
mod runtime;
mod setup;
mod state;
mod sysctls;
mod terminal;

pub use features::features;
pub use launcher::{HELPER_ACTION, Launcher, run_as_helper};
pub use provider::Namespaces;
pub use runtime::Runc;
pub use state::clean_up;
