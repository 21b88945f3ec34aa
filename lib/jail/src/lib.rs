//! A jailed process: one that reads what an adversary wrote, and has given up before all that it does
//! not need for that.
//!
//! Two of a microVM's processes are such: the VMM and the file server. The parent's side is
//! [`process`]: it starts the process with namespaces of its own and tells it by a [`control`] socket
//! what it is to be, with the descriptors that it will ever have. The process's side is [`enter`] and
//! [`seccomp`]. Whoever takes the process over has then: those descriptors, a root directory with
//! nothing in it, processes, a network, a host name and semaphores of its own, a user id that nobody
//! else has, the capabilities that were kept, none for most, and no way to more, and the system calls
//! that a table lists. A call that is not in it ends the process, and the parent is told which one it was.
//!
//! It does not know what a process does, opens nothing by a path that a guest names, and trusts neither
//! side's messages.
//!
//! Start reading at [`enter`].

pub mod control;
pub mod credentials;
pub mod exit;
mod failure;
pub mod limits;
pub mod namespaces;
pub mod process;
pub mod root;
pub mod seccomp;
pub mod sentence;

use std::ffi::CStr;

use nix::errno::Errno;

pub use control::{Control, Message};
pub use exit::{Done, Exit, FORBIDDEN_CALL};
pub use failure::Failure;
pub use limits::Limit;
pub use process::{Child, Said, Start};

/// What a process becomes, beside what its filter makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Jail<'a> {
    /// What the process is called, by itself and by its own host name.
    pub name: &'a CStr,
    /// The user id: not root's, and no other process's.
    pub uid: u32,
    /// The group id: not root's.
    pub gid: u32,
    /// The capabilities that it keeps, a bit each.
    pub capabilities: u64,
    /// How many threads it will have at most, those that the kernel makes for it to do its work counted
    /// in.
    pub threads: u32,
    /// What else it may use, beside what no jailed process does.
    pub limits: &'a [Limit],
}

/// Closes the jail around this process, which has one thread yet. What it is to have as its root is
/// `root`'s to arrange: it runs when mounts are the process's own and root's capabilities are still
/// there. [`root::empty`] will do for most.
///
/// Most of what is given up belongs to threads, not to the process: threads made later have the same.
/// The filters are each thread's own affair.
///
/// # Errors
/// After an error the process may be anything between what it was and what it should be: it is to
/// end.
pub fn enter(jail: &Jail<'_>, root: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    credentials::check(jail.uid, jail.gid)?;
    namespaces::verify()?;
    namespaces::rename(jail.name)?;
    root::keep_mounts_private()?;
    root()?;
    limits::set(jail.threads, jail.limits)?;
    credentials::drop_all(jail.uid, jail.gid, jail.capabilities)?;
    // The change of user ids has taken that back; and the parent may have ended meanwhile.
    end_with_parent().map_err(Failure::at("end with the parent"))?;
    if control::parent_is_gone() {
        return Err(Failure::new("end with the parent", "it is gone"));
    }
    Ok(())
}

/// Has the kernel end this process with its parent: to be said again after each change of ids.
///
/// # Errors
/// None that is known.
pub fn end_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}
