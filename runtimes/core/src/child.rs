//! Children of this process, each watched by its own pidfd: no signal handler, no `waitpid(-1)`, and
//! so no quarrel over whose child it was.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::io::unix::AsyncFd;

use crate::{ExitStatus, watched};

/// A child process of ours. Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    /// Watches the child `pid`, which has not been reaped. Must be called within the event loop.
    pub fn new(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes plain numbers and returns a descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
        // SAFETY: the call above made this descriptor for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            pid,
            pidfd: watched::readable(fd)?,
        })
    }

    /// The child's number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What refers to the child even when its number has become another's.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    /// Waits for the child's end and reaps it. Must be called once only.
    pub async fn wait(&self) -> io::Result<ExitStatus> {
        self.pidfd
            .async_io(tokio::io::Interest::READABLE, |fd| {
                let status = waitid(
                    Id::PIDFd(fd.as_fd()),
                    WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
                )?;
                match status {
                    WaitStatus::Exited(_, code) => Ok(ExitStatus::now(code.unsigned_abs())),
                    WaitStatus::Signaled(_, signal, _) => Ok(ExitStatus::killed_by(signal as i32)),
                    _ => Err(io::ErrorKind::WouldBlock.into()),
                }
            })
            .await
    }

    /// Sends a signal; `ESRCH` if the child has ended.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open; no signal information is passed.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.get_ref().as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(outcome)?;
        Ok(())
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
        assert_eq!(run("exit 3").wait().await.expect("wait").code, 3);
        assert_eq!(run("kill -15 $$").wait().await.expect("wait").code, 143);
        let child = run("sleep 100");
        child.kill(libc::SIGKILL).expect("kill");
        assert_eq!(child.wait().await.expect("wait").code, 137);
        let gone = child.kill(libc::SIGKILL).expect_err("reaped");
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
