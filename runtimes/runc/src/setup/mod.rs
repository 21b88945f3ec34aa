//! The steps by which a process becomes a container's program: shared by a container's init and by
//! every process that is run in it later.
//!
//! A step does one thing to the calling process and knows neither how the process was made nor what
//! it is for. [`plan`] works out on the host everything the steps will need.

pub(crate) mod capabilities;
pub(crate) mod channel;
pub(crate) mod console;
pub(crate) mod cpulist;
pub(crate) mod credentials;
pub(crate) mod descriptors;
pub(crate) mod directory;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod fork;
pub(crate) mod hostproc;
pub(crate) mod labels;
pub(crate) mod limits;
pub(crate) mod line;
pub(crate) mod lookup;
pub(crate) mod memory_policy;
pub(crate) mod names;
pub(crate) mod namespaces;
pub(crate) mod netdevices;
pub(crate) mod null;
pub(crate) mod passwd;
pub(crate) mod plan;
pub(crate) mod program;
pub(crate) mod rdt;
pub(crate) mod scheduling;
pub(crate) mod seccomp;
pub(crate) mod shared_pid;
pub(crate) mod signals;
pub(crate) mod stage;
pub(crate) mod steps;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod time;
