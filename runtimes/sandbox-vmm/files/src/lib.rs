//! Shares a pod's files with its guest: a jailed vhost-user-fs server.
//!
//! The shim starts the server ([`parent::start`]), a process of its own, and gives it trees and takes them
//! away while it runs ([`parent::Server::share`], [`parent::Server::unshare`]). A tree is a mount in
//! the server's mount namespace and nowhere else: nothing of it appears among the host's mounts, and
//! it is gone with the server, however that ends.

pub mod parent;
pub mod tree;

use std::process::ExitCode;

/// All that the server's process does.
///
/// # Safety
///
/// It is called once, by a process that [`parent::start`] started, before anything has opened a
/// descriptor.
pub unsafe fn serve() -> ExitCode {
    ExitCode::FAILURE
}
