//! What can go wrong with a cgroup: one sentence that says what was done, to what, and why not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of an operation on a cgroup.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of a cgroup could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done: `read`, `open`, `remove`, …
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel did not take a value.
    #[error("cannot write {value:?} to {}: {source}", path.display())]
    Write {
        /// The value.
        value: String,
        /// The file that did not take it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A new container can't have its cgroup: it is somebody's.
    #[error("cannot make {} for a new container: {by}", path.display())]
    Used {
        /// The cgroup.
        path: PathBuf,
        /// What tells.
        by: String,
    },
    /// The runtime is in a user namespace, and the cgroups are the host's.
    #[error(
        "{0}: in a user namespace (rootless containerd) containers take a cgroup v2 that was delegated to it"
    )]
    NotDelegated(Box<Error>),
    /// The container's `cgroupsPath` cannot be used.
    #[error("cannot use cgroups path {:?} for container {id:?}: {reason}", path.display())]
    Path {
        /// The container.
        id: String,
        /// The path as the OCI spec gives it.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The machine has no usable cgroup mount.
    #[error("cannot find the cgroup hierarchies of this machine: {0}")]
    Hierarchy(String),
    /// The machine lacks what was asked for.
    #[error("cannot {action} {}: the {missing} is not available there", path.display())]
    Unavailable {
        /// What was being done.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Controller or file that does not exist.
        missing: &'static str,
    },
    /// Resources that make no sense.
    #[error("cannot limit {}: {reason}", path.display())]
    Resources {
        /// The cgroup.
        path: PathBuf,
        /// What is wrong with the resources.
        reason: String,
    },
    /// The kernel did not get there in time.
    #[error("cannot {action} {}: not done after {} ms", path.display(), waited.as_millis())]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// A process could not be put into the cgroup.
    #[error("cannot put process {pid} into {}: {reason}", path.display())]
    Join {
        /// The process.
        pid: i32,
        /// The cgroup.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid} of {}: {source}", path.display())]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process.
        pid: i32,
        /// Its cgroup.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The device program was not taken.
    #[error("cannot {action} of {}: {source}", path.display())]
    Devices {
        /// What was being done.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// systemd did not do what was asked.
    #[error("cannot {action} systemd unit {unit}: {reason}")]
    Systemd {
        /// What was being done.
        action: &'static str,
        /// The unit.
        unit: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// Whether it says that a file or directory does not exist (any more).
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => is_absent(source),
            _ => false,
        }
    }

    /// Whether it says that this process may not.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EACCES | libc::EPERM | libc::EROFS)
            ),
            _ => false,
        }
    }
}

/// Adds what was being done, and to what, to an error of the operating system.
pub(super) trait Doing<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_path_buf(),
            source: source.into(),
        })
    }
}

/// Whether an error says that the file, its cgroup or its controller does not exist (any more).
/// Files of a cgroup that was removed while they were open answer with `ENODEV`.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR)
    )
}
