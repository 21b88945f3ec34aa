//! The connection to the host.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, connect as connect_to, socket,
};
use trefoil_agent_protocol::{HOST, READY_PORT};

/// Connects to the host, which listens before it starts a guest: nobody there is an error at once,
/// and the kernel gives up by itself on a host that doesn't answer.
pub(crate) fn connect() -> Result<File, Errno> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect_to(socket.as_raw_fd(), &VsockAddr::new(HOST, READY_PORT))?;
    Ok(File::from(socket))
}
