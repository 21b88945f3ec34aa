//! `proc` of a container's pid namespace, for a process that is not in it.
//!
//! The kernel binds a new `proc` to the pid namespace of whoever begins it, and only a process's
//! children can enter another one. So a child begins it and hands the descriptor over.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{fchdir, pivot_root};
use trefoil_os::process::exit_now;

use crate::setup::channel::Channel;
use crate::setup::descriptors::{self, CHANNEL};
use crate::setup::error::{Doing, Failure};

/// The word for the descriptor.
pub(super) const BEGUN: u8 = b'p';
/// The word for why there is none.
pub(super) const FAILED: u8 = b'!';

/// Begins `proc` for the pid namespace that this process is in.
pub(super) fn begin() -> Result<OwnedFd, Failure> {
    fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).doing(|| "begin a filesystem of type proc")
}

/// Begins it, and says it over `channel`.
pub(super) fn begin_for(channel: &Channel) -> Result<(), Failure> {
    let said = match begin() {
        Ok(context) => channel.say(BEGUN, "", &[context.as_fd()]),
        Err(failure) => channel.say(FAILED, &failure.to_string(), &[]),
    };
    said.doing(|| "hand over a filesystem of type proc")
}

/// What [`begin_for`] has said at the other end.
pub(super) fn receive(channel: &Channel) -> Result<OwnedFd, Failure> {
    let said = channel
        .hear()
        .doing(|| "receive a filesystem of type proc")?
        .ok_or_else(|| Failure::new("the container's init ended while it was made"))?;
    match (said.word, said.descriptors.into_iter().next()) {
        (BEGUN, Some(context)) => Ok(context),
        _ => Err(Failure::new(said.text)),
    }
}

/// Begins it in the pid namespace that this process's children are in, whose processes may be hostile:
/// one of them may trace the child that does it. So that child has nothing: its root is empty, it is in a
/// mount namespace that nobody else is in, and its only descriptor takes what is said above.
pub(super) fn begin_among_others() -> Result<OwnedFd, Failure> {
    let (ours, theirs) = Channel::pair().doing(|| "make sockets to a child")?;
    // SAFETY: this process has one thread, so its copy may do whatever it could do itself.
    match unsafe { fork() }.doing(|| "create a process")? {
        ForkResult::Child => {
            // Closed under its owner by what follows.
            let theirs = ManuallyDrop::new(theirs.into_fd());
            if let Err(failure) = begin_in_empty_root(theirs.as_fd()) {
                // If that failed before `keep` the number may be anything, and nothing is said.
                let _ = kept_channel().say(FAILED, &failure.to_string(), &[]);
            }
            exit_now(0)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let received = receive(&ours);
            let _ = waitpid(child, None);
            received
        }
    }
}

fn begin_in_empty_root(channel: BorrowedFd<'_>) -> Result<(), Failure> {
    descriptors::keep(channel, channel)?;
    enter_empty_root().doing(|| "make an empty root directory")?;
    // SAFETY: as above.
    match unsafe { fork() }.doing(|| "create a process")? {
        ForkResult::Child => {
            let _ = begin_for(&kept_channel());
            exit_now(0)
        }
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            _ => Err(Failure::new("a child that was to begin proc was killed")),
        },
    }
}

/// Leaves all that is mounted for an empty directory of no name.
fn enter_empty_root() -> rustix::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// The descriptor that [`descriptors::keep`] leaves for the socket.
pub(super) fn kept_channel() -> Channel {
    // SAFETY: `keep` has put the socket there, and its caller makes one owner of it, once.
    Channel::over(unsafe { OwnedFd::from_raw_fd(CHANNEL) })
}
