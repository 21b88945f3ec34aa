//! The shim's side: starting the server, and what it shares.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use trefoil_core::Result;
use trefoil_vmm::process::Start;

use crate::tree::Tree;

/// Who the server becomes and what it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jail {
    /// The user id: not root's, and no other process's, the VMM's neither.
    pub uid: u32,
    /// The group id: not root's.
    pub gid: u32,
    /// How much memory the guest has, in MiB. It bounds how many files the server may have to
    /// remember: a guest's kernel needs about 1 KiB to know a file.
    pub guest_mib: u32,
}

/// A pod's file server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    pidfd: OwnedFd,
}

/// Starts the server, in the cgroups that `start` names, and hands out the end of its connection
/// that the VMM is to have: the `server` of its `Device::Fs`.
///
/// It does not wait for the server to be ready; [`Server::share`] does. As with the VMM, the server ends with
/// the *thread* that called this.
pub fn start(_start: &Start<'_>, _jail: &Jail) -> Result<(Server, UnixStream)> {
    Err(trefoil_core::Error::internal("not there yet"))
}

impl Server {
    /// Its process's id, as we see it.
    pub fn pid(&self) -> u32 {
        0
    }

    /// A descriptor of its process, which is readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it. [`Server::ended`] tells when it has ended.
    pub fn kill(&self) {}

    /// How it ended, in a sentence, if it has; then it is reaped, too. Does not wait.
    pub fn ended(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Shows a tree to the guest, as `name` in the root of what is shared. A name is 1 to 128 of
    /// `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, but neither `.` nor `..`, and not in use.
    ///
    /// The work is done on a thread of its own, since a mount may take as long as a disk does; it is
    /// carried through even if nobody waits for it any more.
    pub async fn share(&self, _name: &str, _tree: Tree) -> Result<()> {
        Ok(())
    }

    /// Takes a tree away. When this returns, the server holds nothing of it any more: what the tree
    /// was made of can be removed, and files that the guest still has open there are stale to it.
    /// [`trefoil_core::ErrorKind::NotFound`] if no tree has that name.
    pub async fn unshare(&self, _name: &str) -> Result<()> {
        Ok(())
    }
}
