//! The jail: what the process gives up before the guest's first instruction.
//!
//! Whoever takes this process over has: the descriptors the parent handed to it, an empty root
//! directory that can't be written, processes, a network, a host name and semaphores of its own
//! with nothing in them, a user id that nobody else has, no capability and no way to one, and of the
//! system calls those that [`seccomp`] lists for the kind of thread.
//!
//! Most of it belongs to threads, not to the process: [`enter`] is called while there is but one,
//! and threads made later have the same. The filters are each thread's own affair, since they
//! differ; with them, no thread can be made any more.

pub mod credentials;
pub mod limits;
pub mod namespaces;
mod root;
pub mod seccomp;

use serde::{Deserialize, Serialize};

use crate::control;

/// What the process is called, by itself and by its own host name.
const NAME: &std::ffi::CStr = c"trefoil-vmm";

/// Who the process becomes and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Jail {
    /// The user id: not root's, and no other process's.
    pub uid: u32,
    /// The group id: not root's.
    pub gid: u32,
    /// How many descriptors it may have open.
    pub descriptors: u32,
    /// How far it may write in a file: the size of its largest disk, in bytes. Block devices don't
    /// count.
    pub file_size: u64,
}

/// What could not be given up, and why.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Failure {
    doing: String,
    why: String,
}

impl Failure {
    /// Says what was being done, and why it failed.
    pub fn new(doing: impl Into<String>, why: impl ToString) -> Self {
        Self {
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    /// For `map_err` on a system call's outcome.
    pub fn at<E: ToString>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::new(doing, why)
    }
}

/// Closes the jail around this process, which has one thread yet and will have `threads` at most,
/// those that the kernel makes for it to do its work counted in.
///
/// After an error the process may be anything between what it was and what it should be: it is to
/// end.
pub fn enter(jail: &Jail, threads: u32) -> Result<(), Failure> {
    credentials::check(jail.uid, jail.gid)?;
    namespaces::verify()?;
    namespaces::rename(NAME)?;
    root::empty()?;
    limits::set(jail, threads)?;
    credentials::drop_all(jail.uid, jail.gid, 0)?;
    // A change of user ids takes back that we end with our parent; and it may have ended meanwhile.
    // SAFETY: the call takes numbers.
    let outcome = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
    nix::errno::Errno::result(outcome).map_err(Failure::at("end with the parent"))?;
    if control::parent_is_gone() {
        return Err(Failure::new("end with the parent", "it is gone"));
    }
    Ok(())
}
