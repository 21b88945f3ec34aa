//! The table of this process's descriptors.

use std::io;

use nix::errno::Errno;

/// Closes all descriptors from `first` on, up to and with `last` (Linux 5.9). May be called between fork
/// and execve.
///
/// # Safety
/// Nothing in this process may use or own one of them afterwards.
///
/// # Errors
/// The kernel's: `EINVAL` if the range is none.
pub unsafe fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the call takes plain numbers; the caller answers for what they were.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Ok(Errno::result(outcome).map(drop)?)
}
