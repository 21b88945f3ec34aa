//! The test bench: a containerd of our own, with everything it needs, that leaves no trace.
//!
//! [`Rig::start`] gives a running containerd with the stock runtime handler `runc` and ours
//! (`trefoil`, `trefoil-vm`, `trefoil-confidential`; two of them once more, by containerd's Sandbox API), in namespaces of its own and under one directory; dropping it takes all of it away
//! again, and so does a guard process when we are killed. Everything a rig runs is built here
//! from pinned sources ([`tools`]) or from Debian's packages ([`images`]).
//!
//! It never touches the machine's own containerd, network, firewall or package state.
//!
//! Start reading at [`containerd`], then [`cri`] for what the tests say to it.

pub mod agent;
pub mod archive;
pub mod author;
pub mod broker;
pub mod cgroup;
pub mod client_suite;
pub mod command;
pub mod confidential;
pub mod containerd;
pub mod counting;
pub mod cri;
pub mod critest;
pub mod erofs;
pub mod guard;
pub mod guest;
pub mod images;
pub mod kubelet;
pub mod kvm;
pub(crate) mod layout;
pub mod leftovers;
pub mod namespaces;
pub mod part;
pub mod pod_guest;
pub mod probe;
pub mod ptrace;
pub mod pty;
pub mod qemu;
pub mod registry;
pub mod rerun;
pub mod sandbox_api;
pub mod test_vm;
pub mod tools;
pub mod transcript;

pub use containerd::{Handler, Rig};
pub use trefoil_guest::cache;

/// Builds what a rig needs and isn't there yet: in a test VM it would take long.
pub fn prepare() -> anyhow::Result<()> {
    tools::Tools::ensure()?;
    images::ensure()?;
    Ok(())
}
