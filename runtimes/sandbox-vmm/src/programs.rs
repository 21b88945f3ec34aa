//! The processes of a pod beside the shim: this program again, under other names.

use std::ffi::OsStr;
use std::process::ExitCode;

/// What the program is called (`argv[0]`) when it is a pod's VMM.
pub(crate) const VMM: &str = "trefoil-vmm";

/// What it is called when it is a pod's file server.
pub(crate) const FILES: &str = "trefoil-files";

/// Does all that such a process does, if `name` is one's; its end is the process's.
///
/// # Safety
///
/// It is called at the beginning of a process, before anything has opened a descriptor.
pub unsafe fn serve_as(name: &OsStr) -> Option<ExitCode> {
    // SAFETY: whoever starts a program under these names is the crate whose function is called, and
    // nothing has opened a descriptor, by our own contract.
    unsafe {
        if name == VMM {
            return Some(trefoil_vmm::serve());
        }
        if name == FILES {
            return Some(trefoil_files::serve());
        }
    }
    None
}
