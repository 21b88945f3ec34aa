//! What can go wrong, said so that a person reading `kubectl describe pod` understands it.

use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;

/// Why a process could not be started in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The request itself cannot be carried out, whatever the container's state.
    #[error("the process to start is not valid: {0}")]
    Invalid(String),
    /// The container's init is gone, and with it the namespaces to join.
    #[error("cannot start the process: the container is not running: {0}")]
    NotRunning(String),
    /// A step before the process existed failed; there is nothing to reap.
    #[error("cannot start the process in the container: {0}")]
    Setup(String),
    /// The process was created and gave up before it became the requested program.
    ///
    /// It is a child of the caller's *parent* (the shim), which must reap `pid`.
    #[error("cannot start the process in the container: {message}")]
    Child {
        /// The process to reap.
        pid: Pid,
        /// What it was doing, to what, and why that failed.
        message: String,
    },
}

impl ExecError {
    pub(crate) fn init_has_exited() -> Self {
        Self::NotRunning("its init process has exited".to_owned())
    }
}

/// One failed step, as a clause that can follow "cannot start the process: ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Failure> for ExecError {
    fn from(failure: Failure) -> Self {
        Self::Setup(failure.0)
    }
}

/// Names what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// `what` is a verb phrase: the failure reads "cannot {what}: {reason}".
    fn doing<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|why| {
            let why = trefoil_os::reason(&why.into());
            Failure(format!("cannot {}: {why}", what().as_ref()))
        })
    }
}

/// The system's words for an error: see [`trefoil_os::reason`].
pub(crate) fn reason(errno: Errno) -> String {
    trefoil_os::reason(&errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_step() {
        let failed: Result<(), Errno> = Err(Errno::EPERM);
        let failure = failed.doing(|| "set the user id to 1000").unwrap_err();
        assert_eq!(
            ExecError::from(failure).to_string(),
            "cannot start the process in the container: \
             cannot set the user id to 1000: operation not permitted"
        );
    }
}
