//! The limits that the guest's processes inherit: as systemd starts services, and a node containerd's
//! shims, so that a container that asks for none finds the same in a guest as on a node.

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use trefoil_core::{Context, Result};

/// What a process may have open unless it asks for more, and the most it may ask for.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Sets what all that is forked from now on inherits.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn set_for_containers() -> Result<()> {
    let (usual, most) = OPEN_FILES;
    set(Resource::RLIMIT_NOFILE, usual, most)?;
    // The kernel counts out few processes where memory is small, and to each user alone. How many a
    // container may have is for its cgroup to say.
    set(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY)
}

/// Allows this process as many open files as it may ask for: each stream is some.
///
/// # Errors
/// As [`set_for_containers`].
pub(crate) fn set_for_ourselves() -> Result<()> {
    let (_, most) = OPEN_FILES;
    set(Resource::RLIMIT_NOFILE, most, most)
}

fn set(resource: Resource, soft: u64, hard: u64) -> Result<()> {
    setrlimit(resource, soft, hard).context(|| format!("set the limit {resource:?} to {soft}"))
}
