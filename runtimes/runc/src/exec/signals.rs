//! Signal state that a program expects to start with: every disposition default, nothing blocked.
//!
//! `execve` keeps ignored signals ignored and blocked signals blocked, and Rust's runtime ignores
//! SIGPIPE, so without this `yes | head` never ends inside the container.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// The highest signal number on Linux (SIGRTMAX).
const LAST_SIGNAL: libc::c_int = 64;

/// Resets every disposition and unblocks every signal.
pub(crate) fn reset() -> Result<(), Errno> {
    // SAFETY: all-zero bytes are a valid sigaction (SIG_DFL is 0, no flags, empty mask).
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=LAST_SIGNAL {
        // SIGKILL, SIGSTOP and the C library's own signals refuse; they are default anyway.
        // SAFETY: `default` lives through the call, and a null old action is allowed.
        unsafe { libc::sigaction(signal, &default, std::ptr::null_mut()) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
