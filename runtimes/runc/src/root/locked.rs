//! The host's mounts as a less privileged user namespace has them.
//!
//! When a mount namespace is made for another user namespace, the kernel locks what its mounts forbid,
//! and what they hide: its root may mount, but never undo `ro` or `nodev` of the host's. A copy that is
//! made among the host's own mounts has no such locks. So the copies for a container with a user namespace
//! are made in a mount namespace of that one's, but with the host's rights, so that no directory is closed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, open};

use super::reason::{Outcome, Reason};
use crate::idmap::held;

/// Being in a copy of the mount namespace in which all is locked.
#[derive(Debug)]
pub(super) struct Locked(Option<Before>);

#[derive(Debug)]
struct Before {
    namespace: OwnedFd,
    directory: OwnedFd,
}

impl Locked {
    /// Moves the calling thread, the only one of its process.
    pub(super) fn enter(user: BorrowedFd<'_>) -> Outcome<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let before = Before {
            namespace: open("/proc/thread-self/ns/mnt", flags, Mode::empty())?,
            directory: open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
        };
        let copy = held(
            || {
                setns(user, CloneFlags::CLONE_NEWUSER)?;
                unshare(CloneFlags::CLONE_NEWNS)
            },
            |child| File::open(format!("/proc/{child}/ns/mnt")),
        )
        .map_err(|why| Reason::new(why.to_string()))?;
        setns(copy, CloneFlags::CLONE_NEWNS)?;
        Ok(Self(Some(before)))
    }

    /// Goes back.
    pub(super) fn leave(mut self) -> Outcome<()> {
        self.go_back()
    }

    fn go_back(&mut self) -> Outcome<()> {
        let Some(before) = self.0.take() else {
            return Ok(());
        };
        setns(before.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        rustix::process::fchdir(&before.directory)?;
        Ok(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(why) = self.go_back() {
            log::error!("{}", why.failing("leave the container's mounts"));
        }
    }
}
