//! What can go wrong with a cgroup: [`trefoil_os::Error`], one sentence that says what was done, to what, and
//! why not, and that keeps the kernel's number.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
pub use trefoil_os::{Error, Result};

/// Adds what was being done, and to what, to an error of the operating system.
pub(super) trait Doing<T> {
    fn doing(self, action: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, action: &str, path: &Path) -> Result<T> {
        self.map_err(|source| failed(action, path, source))
    }
}

/// Something could not be done to a file or a cgroup.
pub(super) fn failed(action: &str, path: &Path, source: impl Into<io::Error>) -> Error {
    Error::new(format!("{action} {}", path.display()), source)
}

/// The kernel did not take a value.
pub(super) fn not_written(value: &str, path: &Path, source: io::Error) -> Error {
    Error::new(format!("write {value:?} to {}", path.display()), source)
}

/// A new container can't have its cgroup: it is somebody's, by what tells so.
pub(super) fn used(path: &Path, by: impl Into<String>) -> Error {
    let doing = format!("make {} for a new container", path.display());
    Error::new(doing, io::Error::other(by.into()))
}

/// Resources that make no sense.
pub(super) fn unusable(path: &Path, reason: impl Into<String>) -> Error {
    Error::invalid(format!("limit {}", path.display()), reason)
}

/// The machine lacks what was asked for: a controller or a file.
pub(super) fn unavailable(action: &str, path: &Path, missing: &str) -> Error {
    let why = format!("the {missing} is not available there");
    failed(action, path, io::Error::new(io::ErrorKind::NotFound, why))
}

/// The kernel did not get there in time.
pub(super) fn timed_out(action: &str, path: &Path, waited: Duration) -> Error {
    let why = format!("not done after {} ms", waited.as_millis());
    failed(action, path, io::Error::new(io::ErrorKind::TimedOut, why))
}

/// A process could not be put into the cgroup.
pub(super) fn not_joined(pid: Pid, path: &Path, reason: impl Display) -> Error {
    let doing = format!("put process {pid} into {}", path.display());
    Error::new(doing, io::Error::other(reason.to_string()))
}

/// systemd did not do what was asked.
pub(super) fn by_systemd(action: &str, unit: &str, reason: impl Display) -> Error {
    let doing = format!("{action} systemd unit {unit}");
    Error::new(doing, io::Error::other(reason.to_string()))
}

/// The machine has no usable cgroup mount.
pub(super) fn no_hierarchy(reason: impl Display) -> Error {
    let doing = "find the cgroup hierarchies of this machine";
    Error::new(doing, io::Error::other(reason.to_string()))
}

/// Whether an error says that the file, its cgroup or its controller does not exist (any more).
/// Files of a cgroup that was removed while they were open answer with `ENODEV`.
pub(super) fn is_absent(error: &io::Error) -> bool {
    is_absence(error.raw_os_error())
}

/// [`is_absent`], of the kernel's number.
pub(super) fn is_absence(number: Option<i32>) -> bool {
    matches!(number, Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR))
}

/// Whether the kernel's number says that this process may not.
pub(super) fn is_refusal(number: Option<i32>) -> bool {
    matches!(number, Some(libc::EACCES | libc::EPERM | libc::EROFS))
}
