//! The jail: what the process gives up before the guest's first instruction.
//!
//! Whoever takes this process over has: the descriptors the parent handed to it, an empty root
//! directory that can't be written, processes, a network, a host name and semaphores of its own
//! with nothing in them, a user id that nobody else has, no capability and no way to one, and of the
//! system calls those that [`seccomp`] lists for the kind of thread.

pub mod seccomp;

use nix::sys::resource::Resource;
use trefoil_jail::{Failure, Limit, root};

pub use crate::client::configuration::Jail;

/// What the process is called, by itself and by its own host name.
const NAME: &std::ffi::CStr = c"trefoil-vmm";

/// A thread that KVM makes of its own for each virtual machine when it first runs, to take back huge
/// pages (Linux 6.13). It counts as ours: without room for it, no virtual CPU runs.
const KVMS_THREADS: u32 = 1;

/// Closes the jail around this process, which has one thread yet and will have `threads` at most,
/// those that the kernel makes for its disks counted in. The filters are still to come: they differ for
/// each kind of thread; with them, no thread can be made any more.
///
/// # Errors
/// After an error the process may be anything between what it was and what it should be: it is to
/// end.
pub fn enter(jail: &Jail, threads: u32) -> Result<(), Failure> {
    let limits = [
        Limit::new(
            Resource::RLIMIT_NOFILE,
            "open descriptors",
            jail.descriptors.into(),
        ),
        Limit::new(Resource::RLIMIT_FSIZE, "bytes in a file", jail.file_size),
    ];
    let jail = trefoil_jail::Jail {
        name: NAME,
        uid: jail.uid,
        gid: jail.gid,
        capabilities: 0,
        threads: threads.saturating_add(KVMS_THREADS),
        limits: &limits,
    };
    trefoil_jail::enter(&jail, root::empty)
}
