//! What the host shares with the guest.

use nix::errno::Errno;
use nix::mount::MsFlags;
use trefoil_agent_protocol::SHARE_TAG;

/// Where it is mounted. The init makes the place.
pub const PLACE: &str = "/run/trefoil/share";

/// Mounts it, unless that has been done.
///
/// # Errors
/// What the kernel refuses: `EINVAL` if the host shares nothing.
pub fn mount() -> Result<(), Errno> {
    // The agent and programs of containers are in there, and devices: what of them may be used, each
    // container says.
    let flags = MsFlags::empty();
    let none = None::<&str>;
    match nix::mount::mount(Some(SHARE_TAG), PLACE, Some("virtiofs"), flags, none) {
        // The kernel mounts the same thing no second time upon itself.
        Err(Errno::EBUSY) => Ok(()),
        outcome => outcome,
    }
}
