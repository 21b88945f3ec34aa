//! Shares a pod's files with its guest: a jailed vhost-user-fs server.
//!
//! The shim starts the server ([`parent::start`]), a process of its own, and gives it trees and takes
//! them away while it runs ([`parent::Server::share`], [`parent::Server::unshare`]). A tree is a
//! mount in the server's mount namespace and nowhere else: nothing of it appears among the host's
//! mounts, and it is gone with the server, however that ends.
//!
//! The server ([`server`]) hears the device's front end, reads the guest's requests ([`fuse`]) and does what they
//! ask ([`passthrough`]). It trusts neither; `docs/decisions/0003-the-file-server.md` says why it is
//! our own.

pub mod capabilities;
pub mod exit;
pub mod fuse;
mod message;
pub mod parent;
pub mod passthrough;
pub mod server;
pub mod tree;

use std::process::ExitCode;

/// All that the server's process does: it hears who it is to be, enters its jail and serves, until
/// the front end or its parent is gone.
///
/// # Safety
///
/// It is called once, by a process that [`parent::start`] started, before anything has opened a
/// descriptor.
pub unsafe fn serve() -> ExitCode {
    // SAFETY: our contract is the callee's.
    unsafe { server::serve() }
}
