//! Session keyrings: a container must not use the keys of whoever started containerd.

use trefoil_core::Result;
use trefoil_os::Context;

/// Leaves the inherited session keyring for a new, empty one. A kernel without keyrings has nothing to
/// share, and is no error.
pub fn leave_the_hosts() -> Result<()> {
    let left = trefoil_os::keyring::leave_session();
    Ok(left.context(|| "leave the host's session keyring")?)
}
