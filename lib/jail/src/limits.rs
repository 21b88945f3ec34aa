//! What the process may use.

use nix::sys::resource::{Resource, setrlimit};

use crate::Failure;

/// A stack for the main thread; other threads' are made with the size they need.
const STACK: u64 = 1 << 20;

/// How much of a resource a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The resource.
    pub resource: Resource,
    /// What it is called in messages, as in "open descriptors".
    pub name: &'static str,
    /// The most there may be.
    pub most: u64,
}

impl Limit {
    /// So much of a resource, and no more.
    pub const fn new(resource: Resource, name: &'static str, most: u64) -> Self {
        Self {
            resource,
            name,
            most,
        }
    }

    /// Limits the process for ever.
    ///
    /// # Errors
    /// If it is to have more than it may.
    pub fn set(&self) -> Result<(), Failure> {
        let Self { name, most, .. } = self;
        setrlimit(self.resource, *most, *most)
            .map_err(|why| Failure::new(format!("limit itself to {most} {name}"), why))
    }
}

/// What every jailed process is limited to.
const COMMON: [Limit; 6] = [
    Limit::new(Resource::RLIMIT_CORE, "bytes of core dump", 0),
    Limit::new(Resource::RLIMIT_MEMLOCK, "bytes of locked memory", 0),
    Limit::new(Resource::RLIMIT_MSGQUEUE, "bytes of messages", 0),
    Limit::new(Resource::RLIMIT_RTPRIO, "priority", 0),
    Limit::new(Resource::RLIMIT_NICE, "priority", 0),
    Limit::new(Resource::RLIMIT_STACK, "bytes of stack", STACK),
];

pub(crate) fn set(threads: u32, limits: &[Limit]) -> Result<(), Failure> {
    // It counts all threads of the user id, which is ours alone: when all are made, neither a
    // process nor a thread can be. (Nor can they be for the filters, but by the kernel.)
    let threads = Limit::new(Resource::RLIMIT_NPROC, "threads", threads.into());
    [threads]
        .iter()
        .chain(limits)
        .chain(&COMMON)
        .try_for_each(Limit::set)
}
