//! The table of this process's descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use rustix::process::{Resource, getrlimit};

/// Closes all descriptors from `first` on, up to and with `last` (Linux 5.9). May be called between fork
/// and execve.
///
/// # Safety
/// Nothing in this process may use or own one of them afterwards.
///
/// # Errors
/// The kernel's: `EINVAL` if the range is none.
pub unsafe fn close_range(first: u32, last: u32) -> io::Result<()> {
    range(first, last, 0)
}

/// Closes all descriptors from `first` on, on any kernel. May be called between fork and execve.
///
/// # Safety
/// As [`close_range`].
pub unsafe fn close_from(first: u32) {
    if range(first, u32::MAX, 0).is_ok() {
        return;
    }
    // Before Linux 5.9 they are closed one by one.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(1 << 20);
    for fd in first..limit {
        // SAFETY: the caller answers for what it was.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// Has all descriptors from `first` on closed at execve. Before Linux 5.11 that is an error. May be called
/// between fork and execve.
///
/// # Errors
/// `EINVAL` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// The flags that are given by this file only close what the caller answers for, or nothing at all.
fn range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes plain numbers.
    let outcome = unsafe { libc::close_range(first, last, flags.cast_signed()) };
    Ok(Errno::result(outcome).map(drop)?)
}

/// Makes the number `to` mean what `from` does, instead of what it meant before, which is closed. It is an
/// error if they are the same. May be called between fork and execve.
///
/// # Safety
/// Nothing in this process may own the number `to`, or go on to use what it meant before.
///
/// # Errors
/// The kernel's.
pub unsafe fn replace(from: BorrowedFd<'_>, to: RawFd, close_on_exec: bool) -> io::Result<()> {
    let flags = match close_on_exec {
        true => libc::O_CLOEXEC,
        false => 0,
    };
    // SAFETY: the call takes plain numbers; the caller answers for what `to` was.
    let outcome = unsafe { libc::dup3(from.as_raw_fd(), to, flags) };
    Ok(Errno::result(outcome).map(drop)?)
}
