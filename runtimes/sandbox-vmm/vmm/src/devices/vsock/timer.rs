//! A timer that ticks while somebody's time is limited. Exact times don't matter, and one tick looks
//! after all.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::Result;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// How far apart the ticks are.
const TICK: Duration = Duration::from_millis(250);

/// The timer.
pub struct Timer(TimerFd);

impl Timer {
    /// A timer that does not tick.
    pub fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map(Self)
    }

    /// Begins or ends ticking.
    pub fn tick(&self, on: bool) -> Result<()> {
        match on {
            true => {
                let ticks = Expiration::Interval(TICK.into());
                self.0.set(ticks, TimerSetTimeFlags::empty())
            }
            false => self.0.unset(),
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
