//! The processes that make containers, apart from the one that serves containerd.
//!
//! Making a container forks, changes directories, scores and keyrings of whoever does it, and waits; none
//! of that may happen to the server. So the server forks a **helper** while it is still
//! small and single-threaded, and the helper forks a **worker** for every request. A worker is made with
//! `CLONE_PARENT`: it and the container processes it makes are the server's own children.
//!
//! ```text
//! server ──(a request's socket)──▶ helper ──fork──▶ worker ──▶ container's init
//!    ▲                                                 │
//!    └────────────── answer, descriptors ◀─────────────┘
//! ```
//!
//! A request travels on a socket of its own, which the helper hands to the worker unread. A worker that
//! dies closes it, so every request ends. The helper lives in a process group of its own with all
//! workers: what of that group ends is reaped without being asked for by number.

mod helper;
mod protocol;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use tokio::signal::unix::{SignalKind, signal};
use trefoil_core::{Context, Error, Result};
use trefoil_os::child::Child;
use trefoil_os::lock;

pub use helper::run_as_helper;
pub(crate) use protocol::{Answer, Create, Delete, Exec, GivenStreams, Poststart, Request};
pub(crate) use worker::HOLDER_PROGRAM;

/// The action on the binary's command line that makes it a helper: see [`run_as_helper`].
pub const HELPER_ACTION: &str = "helper";

/// The server's side of the helper.
#[derive(Debug)]
pub struct Launcher {
    helper: Mutex<Helper>,
}

#[derive(Debug)]
struct Helper {
    pid: Pid,
    control: OwnedFd,
}

impl Launcher {
    /// Forks the helper. The calling process must be single-threaded still.
    pub fn spawn() -> io::Result<Self> {
        let (ours, theirs) = control_pair()?;
        let server = getpid();
        // SAFETY: this process has one thread, so its copy may do whatever it could do itself.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(theirs);
                Ok(Self {
                    helper: Mutex::new(Helper {
                        pid: child,
                        control: ours,
                    }),
                })
            }
            ForkResult::Child => {
                drop(ours);
                helper::run(theirs, server)
            }
        }
    }

    /// Ends the helper of a launcher that nobody has used: its number is still its own, as nobody has reaped
    /// it.
    pub(crate) fn end(self) {
        let helper = lock(&self.helper).pid;
        let _ = kill(helper, Signal::SIGKILL);
        let _ = waitpid(helper, None);
    }

    /// Reaps the helpers and workers that end, for as long as the event loop runs.
    pub(crate) async fn reap(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            let group = lock(&self.helper).pid;
            reap_group(group);
            if ended.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Has a worker serve a request. `given` are descriptors that belong to it.
    pub(crate) async fn call(
        &self,
        request: &Request,
        given: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let begun = Instant::now();
        let outcome = self.ask(request, given).await;
        log::debug!("{} took {:?}", request.name(), begun.elapsed());
        outcome
    }

    async fn ask(
        &self,
        request: &Request,
        given: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let doing = || format!("ask the helper to {}", request.name());
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context(doing)?;
        self.hand_over(theirs.as_fd()).context(doing)?;
        drop(theirs);
        match protocol::exchange(ours, request, given)
            .await
            .context(doing)?
        {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                if let Some(pid) = failure.pid {
                    reap_one(pid).await;
                }
                Err(Error::new(failure.kind, failure.message))
            }
        }
    }

    /// Gives a request's socket to the helper; to a new one if it has died.
    fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut helper = lock(&self.helper);
        match protocol::send_descriptor(helper.control.as_fd(), socket) {
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                log::warn!("the helper {} has died; starting another", helper.pid);
                reap_group(helper.pid);
                *helper = Helper::execute()?;
                Ok(protocol::send_descriptor(helper.control.as_fd(), socket)?)
            }
            outcome => Ok(outcome?),
        }
    }
}

impl Helper {
    /// Starts a helper as a new program: a fork of the server as it is now would copy all its state.
    fn execute() -> io::Result<Self> {
        let (ours, theirs) = control_pair()?;
        let control = theirs.try_clone()?;
        let child = Command::new("/proc/self/exe")
            .arg0(std::env::args_os().next().unwrap_or_default())
            .arg(HELPER_ACTION)
            .stdin(Stdio::from(control))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            pid: Pid::from_raw(child.id().cast_signed()),
            control: ours,
        })
    }
}

fn control_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Reaps all ended children of the helper's process group. Container processes are in sessions of their
/// own, so none of them is taken from whoever waits for it.
fn reap_group(group: Pid) {
    let group = Pid::from_raw(-group.as_raw());
    loop {
        match waitpid(group, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Reaps a process of a failed request, which is ending or has ended.
async fn reap_one(pid: u32) {
    let outcome = match Child::new(pid) {
        Ok(child) => child.wait().await.map(drop),
        Err(why) => Err(why),
    };
    if let Err(why) = outcome {
        log::debug!("reap process {pid} of a failed request: {why}");
    }
}
