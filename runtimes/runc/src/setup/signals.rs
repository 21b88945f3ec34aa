//! Signal state that a program expects to start with: every disposition default, nothing blocked.
//!
//! `execve` keeps ignored signals ignored and blocked signals blocked, and Rust's runtime ignores
//! SIGPIPE, so without this `yes | head` never ends inside the container.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// The highest signal number on Linux (SIGRTMAX).
const LAST_SIGNAL: libc::c_int = 64;
/// The size of the kernel's signal sets, in bytes.
const SET_SIZE: usize = 8;

/// Resets every disposition and unblocks every signal.
pub(crate) fn reset() -> Result<(), Errno> {
    // The kernel's sigaction, which is at most this large on any architecture; all zeroes mean
    // SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 8];
    for signal in 1..=LAST_SIGNAL {
        // The system call: the C library's function refuses signals 32 and 33, its own, which
        // `execve` would hand on ignored if whoever started the runtime ignored them. SIGKILL and
        // SIGSTOP refuse; they are default anyway.
        // SAFETY: the kernel reads one sigaction from `default`, which is as large and lives
        // through the call; a null old action is allowed.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                none,
                SET_SIZE,
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
