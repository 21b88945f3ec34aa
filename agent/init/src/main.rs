//! The init: PID 1 of a guest, and all that its image holds.
//!
//! It mounts what a guest needs, tells the host over vsock that it is ready, does what the host
//! asks, and ends the guest. Its time to ready is part of every pod's start and its memory is part
//! of every pod, so it does little, and waits in a blocking read. When the host asks for containers, it
//! starts the program that makes them ([`agent`]).
//!
//! It never waits for anything but the host, never takes a path from it, and never returns: what
//! goes wrong is one sentence in the kernel's log, and the end of the guest ([`end`]).
//!
//! Start reading at [`main`]; the words it speaks are in `trefoil-agent-protocol`.

#![cfg_attr(not(test), no_main)]

mod agent;
mod end;
mod host;
mod machine;
mod mounts;
mod root;
mod serve;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;

use libc::c_int;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use serve::Next;
use trefoil_agent_common::kernel_log;
use trefoil_agent_protocol::{READY_PORT, Ready};

/// The program's name.
const NAME: &str = "trefoil-init";

/// Says one sentence in the kernel's log.
fn say(sentence: fmt::Arguments<'_>) {
    kernel_log::say(NAME, sentence);
}

/// Why a guest ends that wasn't asked to.
#[derive(Debug)]
enum Error {
    /// opening /dev/null for want of a console failed
    Descriptors(Errno),
    /// mounting {what} failed
    Mount(&'static str, Errno),
    /// leaving the reaping of processes to the kernel failed
    Reaping(Errno),
    /// no vsock leads to the host
    Connect(Errno),
    /// saying ready to the host failed
    Ready(io::Error),
    /// serving the host failed
    Serve(serve::Error),
    /// having the agent serve it failed
    Agent(agent::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors(why) => write!(
                formatter,
                "opening /dev/null for want of a console failed: {why}"
            ),
            Self::Mount(path, why) => write!(formatter, "mounting {path} failed: {why}"),
            Self::Reaping(why) => write!(
                formatter,
                "leaving the reaping of processes to the kernel failed: {why}"
            ),
            Self::Connect(why) => write!(
                formatter,
                "no vsock leads to the host's port {READY_PORT}: {why}"
            ),
            Self::Ready(why) => write!(formatter, "saying ready to the host failed: {why}"),
            Self::Serve(why) => write!(formatter, "serving the host failed: {why}"),
            Self::Agent(why) => why.fmt(formatter),
        }
    }
}

/// What the C runtime calls, without Rust's before it: that one makes ready for threads, stack
/// overflows and broken pipes, which costs each guest's start 180 thousand instructions and 130 KiB.
/// PID 1 dies of no signal that it doesn't ask for, but for a fault, and a fault ends the guest.
// SAFETY: there is no other function of this name, and it has C's signature, whose parameters may be
// left out.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> c_int {
    if std::process::id() != 1 {
        eprintln!("{NAME}: this is the init of a guest and runs as nothing but process 1");
        return 1;
    }
    // The abort of a PID 1 is the kernel's panic.
    kernel_log::say_defects_of(NAME);
    match run() {
        Ok(()) => end::power_off(),
        Err(error) => {
            say(format_args!("{error}"));
            end::guest()
        }
    }
}

/// All of a guest's life; done when the host has no more use for it.
fn run() -> Result<(), Error> {
    keep_standard_descriptors().map_err(Error::Descriptors)?;
    mounts::make().map_err(|(path, why)| Error::Mount(path, why))?;
    machine::leave_reaping_to_the_kernel().map_err(Error::Reaping)?;
    let mut host = host::connect().map_err(Error::Connect)?;
    say_ready(&mut host).map_err(Error::Ready)?;
    match serve::serve(&mut host, kernel_log::read).map_err(Error::Serve)? {
        Next::End => Ok(()),
        Next::Agent => agent::serve(host).map_err(Error::Agent),
    }
}

/// A guest without a console starts without the descriptors 0 to 2. What is opened first must not
/// take their place: it would be written to as standard error.
fn keep_standard_descriptors() -> Result<(), Errno> {
    if fcntl(io::stderr(), FcntlArg::F_GETFD) != Err(Errno::EBADF) {
        return Ok(());
    }
    loop {
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?.into_raw_fd();
        if null >= libc::STDERR_FILENO {
            return Ok(());
        }
    }
}

fn say_ready(host: &mut File) -> io::Result<()> {
    let mut ready = Ready {
        version: Cow::Borrowed(env!("CARGO_PKG_VERSION")),
        tsc: 0,
        resident: machine::resident(),
    };
    ready.tsc = machine::time_stamp();
    serve::say(host, format_args!("{ready}"))
}
