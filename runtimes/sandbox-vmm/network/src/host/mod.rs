//! The host's side: what CNI made, and a tap next to each interface.

mod redirect;
mod tap;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use trefoil_netlink::read::{self, Link};
use trefoil_netlink::{Netlink, Network, namespace, unfit};
use trefoil_os::{Context, Result};

/// A pod's network with what its guest's machine is to be given.
#[derive(Debug)]
pub struct Attached {
    /// What CNI left, for the guest to make again.
    pub network: Network,
    /// For each interface, in the same order, the tap that stands for it. It does not block, its
    /// packets have a virtio header, and nothing is set that a network device sets itself. When its
    /// last descriptor is closed, it is gone.
    pub taps: Vec<OwnedFd>,
}

/// Joins a machine to the network of a pod: from now on what comes in by an interface that CNI made
/// goes to its tap, and the other way round. The interfaces keep their addresses, which the
/// namespace's own network stack no longer hears anyone ask for.
///
/// Every interface that is up and does Ethernet with ARP is joined, whatever made it. One that is
/// down is left out, as the kernel makes some by itself.
///
/// # Errors
/// An interface that is up and of another kind (such as `ipvlan` in mode L3, `netkit` in mode L3,
/// `wireguard` or `dummy`), a routing rule that looks at more than addresses, a kernel without what this takes, or the host's own namespace. Then
/// nothing is changed.
pub fn attach(netns: BorrowedFd<'_>) -> Result<Attached> {
    namespace::within(netns, || {
        let mut netlink = Netlink::open()?;
        let all = read::links(&mut netlink)?;
        let joined = joined(&all)?;
        let network = read::network(&mut netlink, &joined, &all)?;
        network.check()?;
        let mut taps = Vec::new();
        for (done, link) in joined.iter().enumerate() {
            match join(&mut netlink, link) {
                Ok(tap) => taps.push(tap),
                Err(error) => {
                    for link in &joined[..done] {
                        let _ = redirect::remove(&mut netlink, link);
                    }
                    return Err(error);
                }
            }
        }
        Ok(Attached { network, taps })
    })
}

/// Takes back what [`attach`] did to the interfaces that CNI made, as often as one likes and from
/// any process. Nothing is to be done where the namespace is gone, of which a bind mount may have
/// left an empty file.
///
/// # Errors
/// The kernel refuses; or the namespace is the host's own.
pub fn clean_up(netns: &Path) -> Result<()> {
    let file = match File::open(netns) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome.context(|| format!("open the network namespace {}", netns.display()))?,
    };
    if !namespace::is_one(file.as_fd()) {
        return Ok(());
    }
    namespace::within(file.as_fd(), || {
        let mut netlink = Netlink::open()?;
        for link in read::links(&mut netlink)? {
            match redirect::remove(&mut netlink, &link) {
                // It has gone meanwhile, or it has no such thing.
                Err(why)
                    if matches!(
                        why.raw_os_error(),
                        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
                    ) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    })
}

/// The interfaces that the guest gets.
fn joined(all: &[Link]) -> Result<Vec<&Link>> {
    let mut joined = Vec::new();
    for link in all {
        if !link.has(libc::IFF_UP) || link.has(libc::IFF_LOOPBACK) {
            continue;
        }
        let Link { name, kind, .. } = link;
        if kind == "tun" {
            return Err(unfit(format!(
                "{name} is a tap: another machine is joined to it, or was left over"
            )));
        }
        if link.hardware != libc::ARPHRD_ETHER || link.has(libc::IFF_NOARP) {
            return Err(unfit(format!(
                "{name} (of kind {kind:?}) does not do Ethernet with ARP, which a guest's interface does"
            )));
        }
        joined.push(link);
    }
    Ok(joined)
}

/// Makes the tap, and joins both.
fn join(netlink: &mut Netlink, link: &Link) -> Result<OwnedFd> {
    let tap = tap::make(netlink, link)?;
    redirect::both_ways(netlink, link, &tap)?;
    Ok(tap.fd)
}

#[cfg(test)]
mod tests;
