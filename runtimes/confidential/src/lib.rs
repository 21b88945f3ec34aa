//! Confidential pods: the host's side.
//!
//! A confidential pod is a machine of `trefoil-sandbox-vmm` that has disks and nothing else of the host's.
//! What is added here is the launch, which a [`Tee`] measures and binds the author's initdata to; the
//! layers, as disks that the guest verifies ([`layers`]); and what becomes of volumes ([`volumes`]).
//!
//! Nothing here is trusted by a guest. Start reading at [`provider`].

pub mod broker;
mod content;
pub mod layers;
mod provider;
mod runtime;
mod sandbox;
mod settings;
mod tee;
mod volumes;

pub use provider::Confidential;
pub use tee::{Launch, Simulated, Tee};
