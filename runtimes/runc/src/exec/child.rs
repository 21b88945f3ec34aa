//! What the new process does, in order, to become the requested program.
//!
//! It starts inside the container's namespaces and cgroups, with every privilege of the
//! container's root, and gives up one thing after the other. The order matters; the steps say why
//! they stand where they do.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::stat::umask;
use nix::unistd::setsid;

use super::Streams;
use super::console;
use super::credentials;
use super::descriptors::{self, REPORT};
use super::error::{Doing, Failure};
use super::hostproc::HostProc;
use super::lookup;
use super::passwd;
use super::plan::Plan;
use super::report;
use super::seccomp;
use super::signals;

/// The exit status of a process that did not become its program. Nobody should see it: the caller
/// reports the error instead.
const FAILED: libc::c_int = 255;

/// Becomes the program, or reports why not and exits. Never returns, and runs no destructors: the
/// descriptors that its arguments own are closed under them.
pub(crate) fn run(
    mut plan: Plan,
    proc: &HostProc,
    streams: &Streams<'_>,
    pipe: BorrowedFd<'_>,
) -> ! {
    let mut reporting_on = pipe.as_raw_fd();
    let failure = match start(&mut plan, proc, streams, pipe, &mut reporting_on) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    report::failed(reporting_on, &failure);
    // SAFETY: _exit takes a number and does not return; no destructor or exit handler of the
    // process this one was copied from may run here.
    unsafe { libc::_exit(FAILED) }
}

fn start(
    plan: &mut Plan,
    proc: &HostProc,
    streams: &Streams<'_>,
    pipe: BorrowedFd<'_>,
    reporting_on: &mut RawFd,
) -> Result<std::convert::Infallible, Failure> {
    signals::reset().doing(|| "reset the signals")?;
    setsid().doing(|| "start a session")?;
    if let Streams::Terminal(console) = streams {
        console::take_control(&console.peer)?;
    }
    umask(plan.umask);
    plan.scheduling.apply()?;
    if plan.no_new_privileges {
        forbid_new_privileges()?;
    }

    // The last that needs the host's procfs.
    plan.labels.apply(proc)?;
    let may_set_groups = credentials::may_set_groups(proc);
    let runtime = proc
        .stat("self/exe")
        .ok()
        .map(|status| lookup::identity(&status));

    // From here on nothing of the host is open but the standard streams.
    descriptors::arrange(streams.ends(), pipe)?;
    *reporting_on = REPORT;

    let uid = plan.credentials.uid();
    plan.environment
        .set_home_if_missing(|| passwd::home_of(uid));
    plan.limits.apply()?;

    // Without no_new_privileges loading a filter takes CAP_SYS_ADMIN: before the capabilities go.
    // With it, as late as possible, so that the profile need not allow the steps in between.
    let (early, late) = match (&plan.seccomp, plan.no_new_privileges) {
        (Some(filter), false) => (Some(filter), None),
        (Some(filter), true) => (None, Some(filter)),
        (None, _) => (None, None),
    };
    early.map_or(Ok(()), seccomp::load)?;
    plan.credentials.assume(may_set_groups)?;
    let path = plan.program.find(&plan.environment, runtime)?;

    report::ready();
    late.map_or(Ok(()), seccomp::load)?;
    Err(plan.program.become_it(&path, &plan.environment))
}

fn forbid_new_privileges() -> Result<(), Failure> {
    // SAFETY: this option takes plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    Errno::result(result)
        .map(drop)
        .doing(|| "set no_new_privileges")
}
