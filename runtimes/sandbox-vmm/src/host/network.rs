//! A pod's network: what CNI left in its namespace becomes the machine's.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use trefoil_core::{Context, Result};
use trefoil_network::host;

/// A network interface of the machine's.
#[derive(Debug)]
pub(crate) struct Nic {
    /// The other end of its cable.
    pub tap: OwnedFd,
    /// Its address.
    pub mac: [u8; 6],
    /// Its largest packet.
    pub mtu: u16,
}

/// A pod's network, joined to the machine that is about to be made.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// What the machine is to have.
    pub nics: Vec<Nic>,
    /// What the guest is told; nothing if it has no network.
    pub told: Vec<u8>,
}

/// Joins the network of this namespace.
///
/// # Errors
/// If there is no such namespace, or something in it that no guest can have. Then nothing is changed.
pub(crate) fn attach(netns: &Path) -> Result<Network> {
    let doing = || format!("join the pod's network {}", netns.display());
    let namespace = File::open(netns).context(doing)?;
    let attached = host::attach(namespace.as_fd()).context(doing)?;
    let told = serde_json::to_vec(&attached.network).context(doing)?;
    let nics = attached
        .network
        .interfaces
        .iter()
        .zip(attached.taps)
        .map(|(interface, tap)| Nic {
            tap,
            mac: interface.mac,
            mtu: interface.mtu,
        })
        .collect();
    Ok(Network { nics, told })
}

/// Takes back what [`attach`] did; nothing is to be done where the namespace is gone.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn detach(netns: &Path) -> Result<()> {
    host::clean_up(netns).context(|| format!("leave the pod's network {}", netns.display()))
}
