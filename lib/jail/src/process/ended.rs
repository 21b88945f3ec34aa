//! How a process ended: what the kernel says of it, and what it said itself.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::end::{End, FORBIDDEN_CALL};

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
pub(super) fn end<E: End>(status: Status, said: Option<E>) -> E {
    match (status, said) {
        (Status::Exited(code), Some(said)) if agree(code, &said) => said,
        (Status::Exited(FORBIDDEN_CALL), _) => {
            E::internal("a thread made a system call that its filter forbids".into())
        }
        (Status::Exited(code), _) => E::of_code(code).unwrap_or_else(|| {
            E::internal(format!(
                "its process ended with code {code}, and said nothing that fits"
            ))
        }),
        (Status::Killed(libc::SIGKILL), _) => E::killed(),
        (Status::Killed(signal), _) => {
            E::internal(format!("its process was ended by {}", name(signal)))
        }
    }
}

fn agree<E: End>(code: i32, said: &E) -> bool {
    code == said.code() || (code == FORBIDDEN_CALL && said.is_internal())
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
    use crate::end::tests::Sample;

    fn why(end: Sample) -> String {
        match end {
            Sample::Internal { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_process_said_is_believed_if_it_fits_its_exit_code() {
        let crash = Sample::internal("of some reason".into());
        for said in [Sample::Done, Sample::Told(5), Sample::Killed, crash] {
            let status = Status::Exited(said.code());
            assert_eq!(end(status, Some(said.clone())), said);
        }
        let forbidden = Sample::internal("openat".into());
        let status = Status::Exited(FORBIDDEN_CALL);
        assert_eq!(end(status, Some(forbidden.clone())), forbidden);
    }

    #[test]
    fn the_kernel_is_believed_if_they_disagree() {
        let said = || Some(Sample::Done);
        assert_eq!(end(Status::Exited(12), said()), Sample::Told(0));
        assert_eq!(end(Status::Exited(13), said()), Sample::Killed);
        assert_eq!(end(Status::Exited(0), Some(Sample::Killed)), Sample::Done);
        assert_eq!(end(Status::Killed(libc::SIGKILL), said()), Sample::Killed);
        for (status, expected) in [
            (Status::Exited(FORBIDDEN_CALL), "its filter forbids"),
            (Status::Exited(1), "with code 1, and said nothing"),
            (Status::Exited(101), "with code 101, and said nothing"),
            (Status::Killed(libc::SIGSEGV), "ended by SIGSEGV"),
            (Status::Killed(40), "ended by signal 40"),
        ] {
            let why = why(end(status, said()));
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_crash_is_told_though_the_process_said_what_went_wrong_before() {
        let said = Sample::internal("something else".into());
        let why = why(end(Status::Killed(libc::SIGABRT), Some(said)));
        assert!(why.contains("SIGABRT"), "{why}");
    }
}
