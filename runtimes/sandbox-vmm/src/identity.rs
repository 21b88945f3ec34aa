//! Who a pod's processes are: user ids that nobody else on the host has, so that a process that was
//! taken over can reach none of another pod's.
//!
//! They follow from the shim's own process id, which no two living shims have in common, and lie in a
//! range that nobody hands out: above those of containers (to 0x6fff_ffff, by systemd's conventions,
//! `UIDS-GIDS.md`) and below those of mapped foreign users (from 0x7ffe_0000). Shims in different pid
//! namespaces may have the same id: so each also binds an abstract Unix socket named after the ids, as
//! long as it lives, and tries the next ones if it is taken. There is nothing to clean up.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use trefoil_core::{Context, Error, Result};

/// The first id.
const FIRST: u32 = 0x7000_0000;

/// As many pairs of ids as there can be processes (`PID_MAX_LIMIT` of a 64-bit kernel).
const PAIRS: u32 = 1 << 22;

/// How many pairs are tried.
const TRIES: u32 = 64;

/// A pod's user ids. Each is also a group's.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The VMM's.
    pub vmm: u32,
    /// The file server's.
    pub files: u32,
    /// Keeps others from taking them.
    _claim: OwnedFd,
}

impl Identity {
    /// Claims ids for the pod of this process.
    ///
    /// # Errors
    /// If a socket can't be made, or the ids that were tried are all another's.
    pub fn claim() -> Result<Self> {
        Self::claim_from(std::process::id())
    }

    fn claim_from(process: u32) -> Result<Self> {
        let doing = || "claim user ids for the pod";
        let first = process % PAIRS;
        for number in first..first + TRIES {
            let pair = number % PAIRS;
            let name = format!("trefoil/ids/{pair}");
            let address = SocketAddr::from_abstract_name(name).context(doing)?;
            match UnixDatagram::bind_addr(&address) {
                Ok(claim) => {
                    let vmm = FIRST + 2 * pair;
                    return Ok(Self {
                        vmm,
                        files: vmm + 1,
                        _claim: claim.into(),
                    });
                }
                Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => {}
                outcome => {
                    outcome.context(doing)?;
                }
            }
        }
        Err(Error::internal(format!(
            "claim user ids for the pod: the {TRIES} pairs from {first} on are all taken"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_are_the_same_user() {
        // No process has such a number.
        let process = PAIRS + 7;
        let one = Identity::claim_from(process).expect("ids");
        let other = Identity::claim_from(process).expect("ids");
        let mut all = vec![one.vmm, one.files, other.vmm, other.files];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all.iter().all(|id| (FIRST..0x7ffe_0000).contains(id)));
        let first = one.vmm;
        drop(one);
        assert_eq!(Identity::claim_from(process).expect("ids").vmm, first);
    }

    #[test]
    fn every_process_has_ids_of_the_range() {
        for process in [1, 2, PAIRS - 1, PAIRS, u32::MAX] {
            let ids = Identity::claim_from(process).expect("ids");
            assert!((FIRST..0x7ffe_0000).contains(&ids.files), "{ids:?}");
        }
    }
}
