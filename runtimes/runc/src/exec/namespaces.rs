//! Entering the namespaces that the container's init is in.
//!
//! What is joined is what *differs* from this process, looked up on the running init: it covers
//! namespaces the container got by path (a pod's network), and needs no trust in the spec.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, chroot, fchdir};

use crate::setup::credentials::become_root;
use crate::setup::error::{Doing, ExecError, Failure, reason};
use crate::setup::hostproc::HostProc;

/// Each namespace's name in `/proc/<pid>/ns`, and its flag for `setns`.
const KINDS: [(&str, libc::c_int); 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", libc::CLONE_NEWTIME),
    ("user", libc::CLONE_NEWUSER),
    ("uts", libc::CLONE_NEWUTS),
];

/// A namespace to join.
#[derive(Debug)]
struct Namespace {
    name: &'static str,
    flag: libc::c_int,
    fd: OwnedFd,
}

/// A running container, as seen from the host through its init.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pidfd: BorrowedFd<'a>,
    pid: Pid,
    namespaces: Vec<Namespace>,
    root: OwnedFd,
}

impl<'a> Target<'a> {
    /// Looks at the container whose init `pidfd` refers to.
    pub(crate) fn new(proc: &HostProc, pidfd: BorrowedFd<'a>) -> Result<Self, ExecError> {
        let pid = pid_of(proc, pidfd)?;
        let looked_at = look_at(proc, pid);
        // A pid may be reused once its process is reaped. The pidfd cannot: if it says that init
        // still runs after everything was looked up by number, the number was init's throughout.
        if has_exited(pidfd) {
            return Err(ExecError::init_has_exited());
        }
        let (namespaces, root) = looked_at?;
        Ok(Self {
            pidfd,
            pid,
            namespaces,
            root,
        })
    }

    /// Whether init is gone by now.
    pub(crate) fn has_exited(&self) -> bool {
        has_exited(self.pidfd)
    }

    /// The init's process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the container's namespace of this kind is another than this process's.
    fn has_own(&self, flag: libc::c_int) -> bool {
        self.namespaces
            .iter()
            .any(|namespace| namespace.flag == flag)
    }

    /// Joins them all. The process's later children, not itself, are in the pid namespace.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        let flags = self
            .namespaces
            .iter()
            .fold(0, |flags, namespace| flags | namespace.flag);
        if flags != 0 {
            match setns(self.pidfd, flags) {
                Ok(()) => {}
                // Before Linux 5.8, setns knows no pidfd.
                Err(Errno::EINVAL) => self.join_one_by_one()?,
                failed => {
                    let names: Vec<_> = self.namespaces.iter().map(|one| one.name).collect();
                    failed.doing(|| {
                        format!("join the container's namespaces ({})", names.join(", "))
                    })?;
                }
            }
        }
        if self.has_own(libc::CLONE_NEWUSER) {
            become_root()?;
        }
        if !self.has_own(libc::CLONE_NEWNS) {
            self.enter_root()?;
        }
        Ok(())
    }

    /// The user namespace goes last: the privilege to join the others is the host's.
    fn join_one_by_one(&self) -> Result<(), Failure> {
        let (user, others): (Vec<_>, Vec<_>) = self
            .namespaces
            .iter()
            .partition(|one| one.flag == libc::CLONE_NEWUSER);
        for one in others.into_iter().chain(user) {
            setns(one.fd.as_fd(), one.flag)
                .doing(|| format!("join the container's {} namespace", one.name))?;
        }
        Ok(())
    }

    /// A container without a mount namespace of its own is confined by `chroot` alone.
    fn enter_root(&self) -> Result<(), Failure> {
        fchdir(&self.root).doing(|| "enter the container's root directory")?;
        chroot(".").doing(|| "change to the container's root directory")
    }
}

/// Opens the namespaces that differ from ours, and the root directory, of process `pid`.
fn look_at(proc: &HostProc, pid: Pid) -> Result<(Vec<Namespace>, OwnedFd), ExecError> {
    let mut namespaces = Vec::new();
    for (name, flag) in KINDS {
        let ours = match proc.stat(&format!("self/ns/{name}")) {
            Ok(ours) => ours,
            // This kernel has no such namespaces.
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(inspecting(name, errno)),
        };
        let path = format!("{pid}/ns/{name}");
        let theirs = proc.stat(&path).map_err(|errno| inspecting(name, errno))?;
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
            let fd = proc
                .open_file(&path, OFlag::O_RDONLY)
                .map_err(|errno| inspecting(name, errno))?;
            namespaces.push(Namespace { name, flag, fd });
        }
    }
    let root = proc
        .open_file(&format!("{pid}/root"), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(|errno| gone_or(errno, || "open the container's root directory".to_owned()))?;
    Ok((namespaces, root))
}

fn inspecting(name: &str, errno: Errno) -> ExecError {
    gone_or(errno, || {
        format!("inspect the container's {name} namespace")
    })
}

/// procfs says ENOENT or ESRCH of a process that ended a moment ago.
fn gone_or(errno: Errno, what: impl FnOnce() -> String) -> ExecError {
    match errno {
        Errno::ENOENT | Errno::ESRCH => ExecError::init_has_exited(),
        _ => ExecError::Setup(format!("cannot {}: {}", what(), reason(errno))),
    }
}

/// The process id behind a pidfd, as procfs tells it.
fn pid_of(proc: &HostProc, pidfd: BorrowedFd<'_>) -> Result<Pid, ExecError> {
    let text = proc
        .read(&format!("self/fdinfo/{}", pidfd.as_raw_fd()))
        .doing(|| "read which process the container's pidfd refers to")?;
    match parse_fdinfo(&text) {
        Some(-1) => Err(ExecError::init_has_exited()),
        Some(pid) if pid > 0 => Ok(Pid::from_raw(pid)),
        _ => Err(ExecError::Setup(
            "the descriptor given as the container's init is not a pidfd of this host".to_owned(),
        )),
    }
}

fn parse_fdinfo(text: &str) -> Option<i32> {
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|value| value.trim().parse().ok())
}

/// A pidfd becomes readable when its process exits.
fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> Result<(), Errno> {
    nix::sched::setns(fd, nix::sched::CloneFlags::from_bits_retain(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_tells_the_pid() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t7\nPid:\t4711\nNSpid:\t4711\n";
        assert_eq!(parse_fdinfo(text), Some(4711));
        assert_eq!(parse_fdinfo("Pid:\t-1\n"), Some(-1));
        assert_eq!(parse_fdinfo("pos:\t0\n"), None);
        assert_eq!(parse_fdinfo("Pid:\tmany\n"), None);
    }
}
