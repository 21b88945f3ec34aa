//! The guest's ends, wanted and others.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::sys::reboot::{RebootMode, reboot};

use crate::machine::say;
use crate::request::{Outcome, While};

/// The port by which our VMM's machines are powered off, and what is written to it.
const POWER: (u64, u8) = (0x600, 1);

/// Powers off by our VMM's port. Under another VMM nobody is there, and the guest restarts.
pub(crate) fn power_off() -> ! {
    nix::unistd::sync();
    let (port, value) = POWER;
    let asked = File::options()
        .write(true)
        .open("/dev/port")
        .and_then(|ports| ports.write_all_at(&[value], port));
    if let Err(why) = asked {
        say(&format!("asking the machine to power off: {why}"));
    }
    restart()
}

/// Restarts, by the way that the kernel's command line names.
pub(crate) fn restart() -> ! {
    nix::unistd::sync();
    let Err(why) = reboot(RebootMode::RB_AUTOBOOT);
    say(&format!("restarting the machine: {why}"));
    crash()
}

/// The kernel's panic: it can't be without a PID 1.
pub(crate) fn crash() -> ! {
    std::process::exit(1)
}

/// The processor's fault while it handles a fault that it met handling a fault.
pub(crate) fn triple_fault() -> Outcome {
    fs::write("/sys/kernel/reboot/type", "triple").during("choosing how to restart")?;
    restart()
}
