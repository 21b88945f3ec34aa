//! What a process does to itself, also between fork and execve.

use std::io;

use nix::errno::Errno;

/// Ends the process at once: no destructor and no exit handler runs, nothing is flushed. What a forked
/// copy of a process ends with, since all those belong to the process it was copied from. May be called
/// between fork and execve.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Has a signal do what it does by default. May be called between fork and execve.
///
/// # Errors
/// `EINVAL` for those that always do (`SIGKILL`, `SIGSTOP`), and for what is no signal or is the C
/// library's own.
pub fn reset_signal(signal: i32) -> io::Result<()> {
    // SAFETY: the default action runs no code of ours.
    match unsafe { libc::signal(signal, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

/// Ignores a signal, as programs do that are executed later. May be called between fork and execve.
///
/// # Errors
/// As [`reset_signal`].
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code of ours.
    match unsafe { libc::signal(signal, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_signal_is_refused() {
        reset_signal(libc::SIGUSR2).expect("a signal");
        for wrong in [0, libc::SIGKILL, 1000] {
            let why = reset_signal(wrong).expect_err("none");
            assert_eq!(why.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
