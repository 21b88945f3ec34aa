//! Why a device can't go on.

use trefoil_virtio::Broken;

/// Why a device can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest broke the rules: the device asks it for a reset and is still until then.
    #[error("{0}")]
    Guest(#[from] Broken),
    /// The host failed us, or the process that does the device's work. The machine ends, saying
    /// which device and what it was doing.
    #[error("{doing}: {why}")]
    Host {
        /// What was being done, as in "read from the tap".
        doing: &'static str,
        /// What the kernel said, or what is wrong with the process.
        why: std::io::Error,
    },
}

impl Failure {
    /// For `map_err` on a system call's outcome.
    pub fn host<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::Host {
            doing,
            why: why.into(),
        }
    }
}
