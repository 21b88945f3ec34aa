//! Making the process: a child that shares our memory until it runs its program, so that nothing
//! has to be copied for it, while we wait.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::Failure;
use crate::control::CONTROL;

/// What to start, and where.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The program, or this one again.
    pub program: Option<&'a Path>,
    /// Its arguments, the zeroth included. Its environment is empty.
    pub arguments: &'a [&'a str],
    /// What it writes to as its standard error.
    pub log: BorrowedFd<'a>,
    /// The directories of the cgroups it is put into: one of each hierarchy.
    pub cgroups: &'a [PathBuf],
    /// How ready the kernel should be to kill it for want of memory, or as its parent's.
    pub oom_score_adj: Option<i16>,
}

/// Namespaces of its own. That of users is not among them: its ids are the host's.
const NAMESPACES: c_int = libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Where the program is while it is not run yet.
const PROGRAM: RawFd = CONTROL + 1;

/// The child's steps: what is done, and to what of it.
const STEPS: [(&str, &str); 4] = [
    ("make", "process"),
    ("tie", "process to its parent"),
    ("arrange", "descriptors"),
    ("run", "program"),
];

/// All that the child needs, prepared: it may neither allocate nor take a lock.
struct Plan {
    null: OwnedFd,
    log: OwnedFd,
    control: OwnedFd,
    program: OwnedFd,
    arguments: Vec<*const c_char>,
    /// How far it came, and what stopped it: it shares our memory.
    step: AtomicI32,
    why: AtomicI32,
}

/// Makes the process, which is called `what` in messages.
pub(super) fn spawn(
    what: &str,
    start: &Start<'_>,
    control: OwnedFd,
) -> Result<(Pid, OwnedFd), Failure> {
    let program = start.program.unwrap_or(Path::new("/proc/self/exe"));
    let open = |path: &Path, flags| {
        let file = File::options().read(true).custom_flags(flags).open(path);
        file.and_then(high)
            .map_err(|why| Failure::new(format!("open {}", path.display()), why))
    };
    let own = |made: std::io::Result<OwnedFd>| {
        made.map_err(Failure::at(format!("prepare the {what}'s descriptors")))
    };
    let texts = start
        .arguments
        .iter()
        .map(|text| CString::new(*text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::at(format!("prepare the {what}'s arguments")))?;
    let plan = Plan {
        null: OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .and_then(high)
            .map_err(Failure::at("open /dev/null"))?,
        log: own(high(start.log))?,
        control: own(high(control))?,
        program: open(program, libc::O_PATH)?,
        arguments: texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect(),
        step: AtomicI32::new(0),
        why: AtomicI32::new(0),
    };
    let doing = |step: i32| {
        let step = usize::try_from(step).unwrap_or_default();
        let (doing, part) = STEPS.get(step).copied().unwrap_or_default();
        format!("{doing} the {what}'s {part}")
    };
    let (pid, pidfd) = clone(&plan).map_err(Failure::at(doing(0)))?;
    match plan.why.load(Ordering::Acquire) {
        0 => Ok((pid, pidfd)),
        why => {
            let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
            let step = plan.step.load(Ordering::Acquire);
            Err(Failure::new(doing(step), Errno::from_raw(why)))
        }
    }
}

/// A copy of a descriptor beyond those that the child puts into place.
fn high(descriptor: impl AsFd) -> std::io::Result<OwnedFd> {
    let copy = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(PROGRAM + 1))?;
    // SAFETY: it is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes the child, and returns when it runs its program or has failed to.
fn clone(plan: &Plan) -> nix::Result<(Pid, OwnedFd)> {
    const STACK: usize = 64 << 10;
    // Of u128s for the alignment.
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    // None of our signals' handlers may run in the child: they would run on our memory.
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    // SAFETY: the child has a stack of its own, whose end is passed, and does nothing but what may
    // be done between fork and exec. It reads the plan and writes its atomics, while this thread
    // waits (CLONE_VFORK): the plan and the stack outlive it. The kernel writes the pidfd.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast(),
            NAMESPACES | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            std::ptr::from_ref(plan).cast_mut().cast(),
            &raw mut pidfd,
        )
    };
    let pid = Errno::result(pid);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    let pid = Pid::from_raw(pid?);
    // SAFETY: the kernel has made it for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: it is what `clone` passed, which lives until we run another program.
    let plan = unsafe { &*plan.cast::<Plan>() };
    let why = match become_program(plan) {
        // It does not come back when it worked.
        Ok(()) => Errno::ENOEXEC,
        Err(why) => why,
    };
    plan.why.store(why as i32, Ordering::Release);
    // SAFETY: this ends the child, without any of what ends a program in order.
    unsafe { libc::_exit(127) }
}

/// Only async-signal-safe calls from here on.
fn become_program(plan: &Plan) -> Result<(), Errno> {
    let step = |number| plan.step.store(number, Ordering::Release);
    step(1);
    // Signals as a new program expects them. Handlers would be ours, in our memory.
    // SAFETY: an all-zero sigaction is the default action.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // It fails for those whose action can't be changed.
        // SAFETY: the action is readable.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    nix::unistd::setsid()?;
    crate::end_with_parent()?;

    step(2);
    for (from, to, flags) in [
        (&plan.null, 0, 0),
        (&plan.null, 1, 0),
        (&plan.log, 2, 0),
        (&plan.control, CONTROL, 0),
        (&plan.program, PROGRAM, libc::O_CLOEXEC),
    ] {
        // SAFETY: the call takes numbers. It changes the child's own table: nobody uses what
        // these numbers were.
        Errno::result(unsafe { libc::dup3(from.as_raw_fd(), to, flags) })?;
    }
    let rest = (PROGRAM + 1).unsigned_abs();
    // SAFETY: as above; the numbers in `plan` are not used in the child any more.
    Errno::result(unsafe { libc::close_range(rest, u32::MAX, 0) })?;
    // That the parent is told of by a signal only if it ends from now on.
    if crate::control::packet::is_gone(control_socket()) {
        return Err(Errno::EPIPE);
    }

    step(3);
    let environment: [*const c_char; 1] = [std::ptr::null()];
    // SAFETY: the lists end with null and their texts with zeros, and all live in the parent, which
    // waits. On success it does not return.
    let outcome = unsafe {
        libc::execveat(
            PROGRAM,
            c"".as_ptr(),
            plan.arguments.as_ptr().cast(),
            environment.as_ptr().cast(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(outcome).map(drop)
}

fn control_socket() -> BorrowedFd<'static> {
    // SAFETY: it has just been put there, and is not closed in the child.
    unsafe { BorrowedFd::borrow_raw(CONTROL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the parent had ended before the kernel was told to end the process with it.
    #[test]
    fn a_parent_that_is_gone_gets_no_process() {
        let (ours, theirs) = crate::control::packet::pair().expect("pair");
        drop(ours);
        let log = File::open("/dev/null").expect("open");
        let start = Start {
            program: None,
            arguments: &["never run"],
            log: log.as_fd(),
            cgroups: &[],
            oom_score_adj: None,
        };
        let why = spawn("VMM", &start, theirs).expect_err("no process");
        assert_eq!(
            why.to_string(),
            "arrange the VMM's descriptors: EPIPE: Broken pipe"
        );
    }
}
