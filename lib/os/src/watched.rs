//! Descriptors that the event loop tells about.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// Has the event loop watch a descriptor, which it takes over. Must be called within the loop.
///
/// # Errors
/// Those of epoll_ctl(2), together with the descriptor: `EPERM` for a plain file, most of all.
pub fn watched(
    fd: OwnedFd,
    interest: Interest,
) -> Result<AsyncFd<OwnedFd>, AsyncFdRegisterError<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same for as long as it lives, it moves into the AsyncFd, and
    // nothing hands it out again but by reference.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
}

/// [`watched`] for reading, for those who can do nothing else with the descriptor.
///
/// # Errors
/// As [`watched`].
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    Ok(watched(fd, Interest::READABLE)?)
}
