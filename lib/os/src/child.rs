//! Children of this process, each watched by its own pidfd: no signal handler, no `waitpid(-1)`, and
//! so no quarrel over whose child it was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::io::unix::AsyncFd;

use crate::{pidfd, watched};

/// A child process of ours. Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    /// Watches the child `pid`, which has not been reaped. Must be called within the event loop.
    ///
    /// # Errors
    /// The kernel's: `ESRCH` if there is no such process.
    pub fn new(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            pidfd: watched::readable(pidfd::open(pid)?)?,
        })
    }

    /// The child's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What refers to the child even when its number has become another's.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    /// Waits for the child's end and reaps it. Must be called once only.
    ///
    /// # Errors
    /// `ECHILD` if somebody else has reaped it.
    pub async fn wait(&self) -> io::Result<ExitStatus> {
        self.pidfd
            .async_io(tokio::io::Interest::READABLE, |fd| {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let status = waitid(WaitId::PidFd(fd.as_fd()), options)?;
                let status = status.ok_or(io::ErrorKind::WouldBlock)?;
                match (status.exit_status(), status.terminating_signal()) {
                    // As wait(2) has them in one number.
                    (Some(code), _) => Ok(ExitStatus::from_raw((code & 0xff) << 8)),
                    (None, Some(signal)) => Ok(ExitStatus::from_raw(signal)),
                    (None, None) => Err(io::ErrorKind::WouldBlock.into()),
                }
            })
            .await
    }

    /// Sends a signal, or 0 for none; `ESRCH` if the child has ended and been reaped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        pidfd::send_signal(self.pidfd(), signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::zombie_processes,
        reason = "what is tested here waits for them"
    )]
    fn run(script: &str) -> Child {
        let child = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn()
            .expect("spawn");
        Child::new(child.id()).expect("watch")
    }

    #[tokio::test]
    async fn exit_codes_and_signals_are_told_apart() {
        assert_eq!(run("exit 3").wait().await.expect("wait").code(), Some(3));
        let ended = run("kill -15 $$").wait().await.expect("wait");
        assert_eq!(ended.signal(), Some(15));
        let child = run("sleep 100");
        child.kill(0).expect("it is there");
        child.kill(libc::SIGKILL).expect("kill");
        assert_eq!(child.wait().await.expect("wait").signal(), Some(9));
        let gone = child.kill(libc::SIGKILL).expect_err("reaped");
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
