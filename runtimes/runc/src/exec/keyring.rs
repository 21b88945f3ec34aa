//! A session keyring of its own.
//!
//! Keyrings are inherited across `fork` and `execve` and are not namespaced: without this, a
//! process in the container could use the keys of whoever started the runtime.

use nix::errno::Errno;

use super::error::{Doing, Failure};

const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Leaves the inherited session keyring for a new, empty one.
pub(crate) fn leave_the_hosts() -> Result<(), Failure> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: for this operation a null name is allowed and means an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    match Errno::result(result) {
        // ENOSYS: a kernel without keyrings.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno).doing(|| "leave the host's session keyring"),
    }
}
