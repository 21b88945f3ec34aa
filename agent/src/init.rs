//! What PID 1 does once the host asks for containers: it forks the process that makes them ([`pod`]),
//! and reaps.
//!
//! Every process whose parent is gone becomes PID 1's child, and so would the containers' processes be if
//! PID 1 made them: it could not tell the ones that somebody waits for from those that nobody does. In two
//! processes it needs not: all children of this one but one are nobody's.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::{kernel_log, machine, pod, root};

/// Why the guest can't go on.
#[derive(Debug)]
pub(crate) enum Error {
    /// the root can't be made one that containers can leave
    Root(&'static str, Errno),
    /// starting the process that serves failed
    Fork(Errno),
    /// waiting for it failed
    Wait(Errno),
    /// it has ended, and not because the host asked for it
    Ended(WaitStatus),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(step, why) => {
                write!(formatter, "leaving the first root failed to {step}: {why}")
            }
            Self::Fork(why) => write!(formatter, "starting the pod's process failed: {why}"),
            Self::Wait(why) => write!(formatter, "waiting for the pod's process failed: {why}"),
            Self::Ended(how) => write!(formatter, "the pod's process has ended: {how:?}"),
        }
    }
}

/// Serves the host on its connection, of which `received` was read already, until it has no more use for
/// the guest.
pub(crate) fn serve(host: File, received: Vec<u8>) -> Result<(), Error> {
    root::leave_initramfs().map_err(|(step, why)| Error::Root(step, why))?;
    machine::reap_ourselves().map_err(Error::Fork)?;
    match machine::fork().map_err(Error::Fork)? {
        ForkResult::Child => be_pod(OwnedFd::from(host), received),
        ForkResult::Parent { child } => {
            // Its end is to be the end of the connection.
            drop(host);
            reap_until(child)
        }
    }
}

fn be_pod(host: OwnedFd, received: Vec<u8>) -> ! {
    let code = match pod::run(host, received) {
        Ok(()) => 0,
        Err(why) => {
            kernel_log::say(format_args!("{why}"));
            1
        }
    };
    std::process::exit(code)
}

/// Reaps children until this one is among them.
fn reap_until(child: Pid) -> Result<(), Error> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(child) => {
                return match status {
                    WaitStatus::Exited(_, 0) => Ok(()),
                    how => Err(Error::Ended(how)),
                };
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(Error::Wait(why)),
        }
    }
}
