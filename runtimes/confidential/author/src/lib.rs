//! What a confidential pod's author runs: from manifests and images to a policy.
//!
//! A policy says what the pod's guest lets its host do. It is derived, not written: [`manifest`] reads what
//! Kubernetes is given, [`layers`] what is in images, [`mod@derive`] works out what kubelet and containerd make of
//! both, and the types of `trefoil-policy` hold the result. Nothing here talks to a cluster or a registry:
//! what it knows is in the files that it is given, so that the same files make the same policy anywhere.

mod cli;
pub mod derive;
pub mod image;
pub mod layers;
mod layouts;
pub mod manifest;
mod pin;
pub mod yaml;

pub use cli::main;
pub use layouts::Layouts;
