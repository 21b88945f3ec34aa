//! The VMM as a program of its own, for a parent that is not the shim.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: nothing has been opened yet.
    unsafe { trefoil_vmm::serve() }
}
