//! Whose a network namespace is.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use trefoil_core::{Context, Result};

/// `NS_GET_USERNS` of `linux/nsfs.h`.
const GET_USER_NAMESPACE: libc::c_ulong = 0xb701;

/// The user namespace that owns the network namespace at this path: containerd has made the network of a pod
/// with a user namespace in the one that the pod is to have.
///
/// # Errors
/// If there is no such namespace.
pub(super) fn owner(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("find the user namespace that owns {}", path.display());
    let namespace = File::open(path).context(doing)?;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), GET_USER_NAMESPACE) };
    let fd = Errno::result(fd).context(doing)?;
    // SAFETY: the request answers a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_nodes_network_is_the_nodes_users() {
        let found = owner(Path::new("/proc/self/ns/net")).expect("owned");
        let found = File::from(found).metadata().expect("metadata");
        let own = std::fs::metadata("/proc/self/ns/user").expect("metadata");
        assert_eq!((found.dev(), found.ino()), (own.dev(), own.ino()));
        let why = owner(Path::new("/proc/self/status")).expect_err("no namespace");
        assert!(why.to_string().contains("/proc/self/status"), "{why}");
    }
}
