//! The end of a guest.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::reboot::{RebootMode, reboot};

use crate::say;

/// The port by which our VMM's machines are powered off, and what is written to it.
const POWER: (u64, u8) = (0x600, 1);

/// Ends a guest that was asked to power off.
///
/// Powering off takes a device to ask for it, and a guest without ACPI has none but a port of our
/// VMM's. Under another VMM nobody is there, and the guest restarts instead.
pub(crate) fn power_off() -> ! {
    // Nothing of what a pod has written may be lost in the page cache.
    nix::unistd::sync();
    let (port, value) = POWER;
    let asked = File::options()
        .write(true)
        .open("/dev/port")
        .and_then(|ports| ports.write_all_at(&[value], port));
    if let Err(why) = asked {
        say(format_args!(
            "asking the machine to power off failed: {why}"
        ));
    }
    guest()
}

/// Ends the guest by a restart, which its machine doesn't get: the VMM takes it for the end.
///
/// The kernel would say "Power down" and halt with its processors still there. So a VMM sees the
/// same at the end of a guest whose init failed and of one that panicked, and another VMM than
/// ours also at that of one that was asked to power off; it tells that one by what it asked for and
/// by the connection, which is closed before.
///
/// An init that failed doesn't exit, though the kernel's panic would end the guest as well: the
/// register dump would push out of sight what it had to say.
pub(crate) fn guest() -> ! {
    // Nothing of what a pod has written may be lost in the page cache.
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    say(format_args!("restarting the machine failed: {error}"));
    // The kernel's panic is the end, then.
    std::process::exit(1)
}
