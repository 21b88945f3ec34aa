//! What the process may use.

use nix::sys::resource::{Resource, setrlimit};

use super::{Failure, Jail};

/// A stack for the main thread; other threads' are made with the size they need.
const STACK: u64 = 1 << 20;

/// A thread that KVM makes of its own for each virtual machine when it first runs, to take back huge
/// pages (Linux 6.13). It counts as ours: without room for it, no virtual CPU runs.
const KVMS_THREADS: u32 = 1;

pub(super) fn set(jail: &Jail, threads: u32) -> Result<(), Failure> {
    // It counts all threads of the user id, which is ours alone: when all are made, neither a
    // process nor a thread can be. (Nor can they be for the filters, but by the kernel.)
    let threads = threads.saturating_add(KVMS_THREADS);
    for (resource, name, most) in [
        (
            Resource::RLIMIT_NOFILE,
            "open descriptors",
            jail.descriptors.into(),
        ),
        (Resource::RLIMIT_FSIZE, "bytes in a file", jail.file_size),
        (Resource::RLIMIT_NPROC, "threads", threads.into()),
        (Resource::RLIMIT_STACK, "bytes of stack", STACK),
        (Resource::RLIMIT_CORE, "bytes of core dump", 0),
        (Resource::RLIMIT_MEMLOCK, "bytes of locked memory", 0),
        (Resource::RLIMIT_MSGQUEUE, "bytes of messages", 0),
        (Resource::RLIMIT_RTPRIO, "priority", 0),
        (Resource::RLIMIT_NICE, "priority", 0),
    ] {
        limit(resource, name, most)?;
    }
    Ok(())
}

/// Limits the process for ever, to so many of what is called `name`.
pub fn limit(resource: Resource, name: &str, most: u64) -> Result<(), Failure> {
    setrlimit(resource, most, most)
        .map_err(|why| Failure::new(format!("limit itself to {most} {name}"), why))
}
