//! The helper process: receives requests' sockets and forks a worker for each.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getppid, setpgid};
use trefoil_os::descriptors::close_range;
use trefoil_os::footprint;
use trefoil_os::process::reset_signal;

use super::{protocol, worker};
use crate::setup::fork::{die_with, fork_sibling};

/// What a container's processes start with unless their configuration says otherwise.
const DEFAULT_UMASK: Mode = Mode::from_bits_truncate(0o022);

/// For how many milliseconds no request must have come before memory is let go of.
const QUIET: u16 = 1000;

/// Serves requests from the control socket until the server is gone. Never returns.
pub(super) fn run(control: OwnedFd, server: Pid) -> ! {
    let prepared = prepare(&control, server);
    let code = match prepared.and_then(|()| Ok(serve(&control)?)) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code)
}

/// What the binary does when it is executed as a helper: the control socket is its stdin.
pub fn run_as_helper() -> ! {
    // SAFETY: whoever executes this gives the control socket as stdin, which nothing here has used.
    let control = unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) };
    match control.as_fd().try_clone_to_owned() {
        Ok(control) => run(control, getppid()),
        Err(_) => std::process::exit(1),
    }
}

fn prepare(control: &OwnedFd, server: Pid) -> io::Result<()> {
    // Known to the server by this number: see `reap_group`.
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    die_with(server)?;
    let _ = prctl::set_name(c"trefoil-helper");
    reset_signals()?;
    umask(DEFAULT_UMASK);
    close_all_but(control.as_raw_fd())
}

/// Undoes what the server and the standard library ignore or block: containers inherit all of it.
fn reset_signals() -> nix::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // Refused are the few signals that have no other action, and those of the C library's own.
        let _ = reset_signal(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Closes what was inherited from the server, most of all its listening socket.
fn close_all_but(kept: RawFd) -> io::Result<()> {
    let kept = kept.unsigned_abs();
    // SAFETY: nothing in this process uses the descriptors of these ranges: it has just been forked and
    // owns the kept one only.
    unsafe {
        if kept > 3 {
            close_range(3, kept - 1)?;
        }
        close_range(kept + 1, u32::MAX)?;
    }
    Ok(())
}

fn serve(control: &OwnedFd) -> nix::Result<()> {
    while let Some(socket) = next(control)? {
        if fork_sibling()? {
            worker::run(socket);
        }
    }
    Ok(())
}

/// The socket of the next request, which may be days away: memory is let go of meanwhile.
fn next(control: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    let mut ready = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, QUIET) == Ok(0) {
        footprint::release();
    }
    protocol::receive_descriptor(control.as_fd())
}
