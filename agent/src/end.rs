//! The end of a guest.

use nix::sys::reboot::{RebootMode, reboot};

use crate::kernel_log;

/// Ends the guest by a restart, which its machine doesn't get.
///
/// Powering off takes a device to ask for it, and a guest has none: no ACPI. The kernel would say
/// "Power down" and halt with its processors still there. A restart with `reboot=t` is a triple
/// fault, which every VMM sees without being asked anything, and takes for the end where it was
/// told not to restart. So a VMM sees the same at the end of a guest that was asked to power off,
/// of one whose agent failed and of one that panicked; it tells the first by what it asked for and
/// by the connection, which the agent closes before.
///
/// An agent that failed doesn't exit, though the kernel's panic would end the guest as well: the
/// register dump would push out of sight what the agent had to say.
pub(crate) fn guest() -> ! {
    // Nothing of what a pod has written may be lost in the page cache.
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    kernel_log::say(format_args!("restarting the machine failed: {error}"));
    // The kernel's panic is the end, then.
    std::process::exit(1)
}
