//! Processes by descriptor: what refers to one even when its number has become another's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A descriptor of the process `pid`, readable when it has ended, which waiting for does not block.
///
/// # Errors
/// `ESRCH` if there is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(Errno::ESRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Sends a signal; 0 only asks whether one could be sent. May be called between fork and execve.
///
/// # Errors
/// `ESRCH` if the process has ended and been reaped.
pub fn send_signal(process: impl AsFd, signal: i32) -> io::Result<()> {
    // rustix has the call, but neither signal 0 nor the real-time ones, which a pod may well be sent.
    // SAFETY: the descriptor is open; no signal information is passed.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Ok(Errno::result(outcome).map(drop)?)
}
