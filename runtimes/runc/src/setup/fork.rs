//! Creating a process as a child of the caller's parent, and ending with that.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// `CLONE_INTO_CGROUP` of `linux/sched.h` (Linux 5.7).
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes this is.
pub(crate) enum Forked {
    /// The new one.
    Child,
    /// The caller.
    Parent {
        /// The new process's id, in the caller's pid namespace.
        pid: Pid,
        /// Refers to the new process.
        pidfd: OwnedFd,
    },
}

/// Where a new process begins, if not where the caller is.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Whether it is the first process of a new pid namespace.
    pub(crate) new_pid_namespace: bool,
    /// The directory of a cgroup v2, which it is born in. That spares a move, for which the kernel
    /// would make all processors wait.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Forks, giving the new process the caller's parent.
///
/// Both continue on copies of the same memory, so the caller must be single-threaded: a lock held
/// by another thread would stay held in the copy for ever. The new process must end in `execve` or
/// `_exit`.
pub(crate) fn sibling(place: Place<'_>) -> Result<Forked, Errno> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero bytes are a valid clone_args: no flags, no stack, no exit signal. With
    // CLONE_PARENT the exit signal must be none; the caller's own is inherited.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
    if place.new_pid_namespace {
        flags |= libc::CLONE_NEWPID;
    }
    arguments.flags = u64::from(flags.unsigned_abs());
    if let Some(cgroup) = place.cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    let size = std::mem::size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM and without a stack this is fork: the child runs on a copy of this
    // memory and returns here once. The kernel reads `arguments` and writes `pidfd` (in the
    // caller's memory), both of which live through the call. The C library is not told, which
    // matters only to processes with threads.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    let pid = libc::pid_t::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so this is a new descriptor nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent {
        pid: Pid::from_raw(pid),
        pidfd,
    })
}

/// [`sibling`] where nothing more is wanted of the new process. Returns whether this is it.
pub(crate) fn fork_sibling() -> Result<bool, Errno> {
    Ok(matches!(sibling(Place::default())?, Forked::Child))
}

/// Has the kernel end this process when its parent ends, even by SIGKILL.
pub(crate) fn die_with(parent: Pid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before.
    match getppid() == parent {
        true => Ok(()),
        false => Err(Errno::ESRCH),
    }
}
