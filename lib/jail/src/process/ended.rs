//! How a process ended: what the kernel says of it, and what it said itself.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::exit::{Done, Exit, FORBIDDEN_CALL};

/// The kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It ended by itself, with this code.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
}

/// Reaps the child that a pidfd stands for, if it has ended.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = waitid(WaitId::PidFd(pidfd), how)? else {
        return Ok(None);
    };
    let ended = status.exit_status().map(Status::Exited);
    let killed = status.terminating_signal().map(Status::Killed);
    Ok(ended.or(killed))
}

/// How the process ended. What it said tells more than the kernel, but is believed only as long as
/// it is about the same end.
pub(super) fn end<D: Done>(status: Status, said: Option<Exit<D>>) -> Exit<D> {
    match (status, said) {
        (Status::Exited(code), Some(said)) if agree(code, &said) => said,
        (Status::Exited(FORBIDDEN_CALL), _) => {
            Exit::unsaid("a thread made a system call that its seccomp filter forbids")
        }
        (Status::Exited(code), _) => Exit::of_code(code).unwrap_or_else(|| {
            Exit::unsaid(format!(
                "its process ended with code {code}, and said nothing that fits"
            ))
        }),
        (Status::Killed(libc::SIGKILL), _) => Exit::Killed,
        (Status::Killed(signal), _) => {
            Exit::unsaid(format!("its process was ended by {}", name(signal)))
        }
    }
}

fn agree<D: Done>(code: i32, said: &Exit<D>) -> bool {
    code == said.code() || (code == FORBIDDEN_CALL && said.failure().is_some())
}

fn name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(named) => named.to_string(),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;
    use crate::exit::tests::Sample;

    fn failed(why: &str) -> Exit<Sample> {
        Failure::new("serve", why).into()
    }

    #[test]
    fn what_a_process_said_is_believed_if_it_fits_its_exit_code() {
        for said in [
            Exit::Done(Sample::Well),
            Exit::Done(Sample::Told(5)),
            Exit::Killed,
            failed("of some reason"),
        ] {
            let status = Status::Exited(said.code());
            assert_eq!(end(status, Some(said.clone())), said);
        }
        let forbidden = failed("openat");
        let status = Status::Exited(FORBIDDEN_CALL);
        assert_eq!(end(status, Some(forbidden.clone())), forbidden);
    }

    #[test]
    fn the_kernel_is_believed_if_they_disagree() {
        let said = || Some(Exit::Done(Sample::Well));
        let told = Exit::Done(Sample::Told(0));
        assert_eq!(end(Status::Exited(12), said()), told);
        assert_eq!(end(Status::Exited(13), said()), Exit::Killed);
        assert_eq!(
            end(Status::Exited(0), Some(Exit::Killed)),
            Exit::Done(Sample::Well)
        );
        assert_eq!(end(Status::Killed(libc::SIGKILL), said()), Exit::Killed);
        for (status, expected) in [
            (Status::Exited(FORBIDDEN_CALL), "its seccomp filter forbids"),
            (Status::Exited(1), "with code 1, and said nothing"),
            (Status::Exited(101), "with code 101, and said nothing"),
            (Status::Killed(libc::SIGSEGV), "ended by SIGSEGV"),
            (Status::Killed(40), "ended by signal 40"),
        ] {
            let exit = end(status, said());
            assert!(exit.failure().is_some(), "{exit:?}");
            assert!(exit.to_string().contains(expected), "{exit}");
        }
    }

    #[test]
    fn a_crash_is_told_though_the_process_said_what_went_wrong_before() {
        let exit = end(
            Status::Killed(libc::SIGABRT),
            Some(failed("something else")),
        );
        assert_eq!(
            exit.to_string(),
            "sample: run: its process was ended by SIGABRT"
        );
    }
}
