//! Session keyrings: a container must not share that of whoever started containerd.

use std::ffi::CString;

use nix::errno::Errno;
use trefoil_core::{Context, Result};

/// Joins the session keyring of the container `id`, made with the first call. A kernel without
/// keyrings, or a policy against them, leaves nothing to share and is no error.
pub fn join(id: &str) -> Result<()> {
    let name = CString::new(format!("_ses.{id}")).context(|| "name the session keyring")?;
    // SAFETY: the request reads a C string, which lives until after.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(why) => Err(why).context(|| format!("join the session keyring _ses.{id}")),
    }
}
