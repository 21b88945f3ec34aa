//! Session keyrings: a container must not use the keys of whoever started containerd.
//!
//! Keyrings are inherited across `fork` and `execve` and know no namespaces.

use nix::errno::Errno;
use trefoil_core::{Context, Result};

/// Leaves the inherited session keyring for a new, empty one. A kernel without keyrings has nothing to
/// share, and is no error.
pub fn leave_the_hosts() -> Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: for this operation a null name is allowed and means an anonymous keyring.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            anonymous,
        )
    };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(why) => Err(why).context(|| "leave the host's session keyring"),
    }
}
