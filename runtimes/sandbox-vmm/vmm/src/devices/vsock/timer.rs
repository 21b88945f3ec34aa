//! A timer that ticks while somebody's time is limited. Exact times don't matter, and one tick looks
//! after all.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How far apart the ticks are, in nanoseconds.
const TICK: libc::c_long = 250_000_000;

/// The timer.
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that does not tick.
    pub fn new() -> Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Begins or ends ticking.
    pub fn tick(&self, on: bool) -> Result<()> {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: if on { TICK } else { 0 },
        };
        let times = libc::itimerspec {
            it_interval: time,
            it_value: time,
        };
        let old = std::ptr::null_mut();
        // SAFETY: the times are read during the call only, and the old ones are not asked for.
        match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const times, old) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    /// Takes note of the ticks until now.
    pub fn read(&self) {
        let mut ticks = [0; 8];
        // That there was none is no failure.
        let _ = nix::unistd::read(&self.0, &mut ticks);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
