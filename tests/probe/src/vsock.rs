//! Vsock: the way to the host, and the driver's reset.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, listen, socket,
};
use trefoil_probe::{HOST, PORT};

use crate::request::{Answer, Outcome, While, Words};

/// The driver's name on the virtio bus.
const DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

fn new() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// The connection that requests come by.
pub(crate) fn connect_to_host() -> Result<File, String> {
    connect_to(HOST, PORT)
}

/// A connection to a port.
pub(crate) fn connect_to(cid: u32, port: u32) -> Result<File, String> {
    let socket = new().during("making a vsock")?;
    connect(socket.as_raw_fd(), &VsockAddr::new(cid, port))
        .during(format_args!("connecting to {cid}:{port}"))?;
    Ok(File::from(socket))
}

/// A port that others can connect to.
pub(crate) fn listen_on(port: u32) -> Result<OwnedFd, String> {
    let socket = new().during("making a vsock")?;
    let address = VsockAddr::new(libc::VMADDR_CID_ANY, port);
    bind(socket.as_raw_fd(), &address).during(format_args!("binding port {port}"))?;
    let many = Backlog::new(4095).during("choosing a backlog")?;
    listen(&socket, many).during(format_args!("listening on port {port}"))?;
    Ok(socket)
}

/// The next connection to a listening socket of any kind.
pub(crate) fn accept_from(listener: &OwnedFd) -> nix::Result<File> {
    let stream = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept has just made this descriptor, and nobody else knows it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(stream) }))
}

/// `vsock-reset`: takes the device from its driver and gives it back; the host is not answered but
/// connected to anew.
pub(crate) fn reset(words: &mut Words<'_>) -> Outcome {
    words.end()?;
    let device = fs::read_dir(DRIVER)
        .during("looking for the vsock device")?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .find(|name| name.starts_with("virtio"))
        .ok_or("the vsock driver has no device")?;
    fs::write(format!("{DRIVER}/unbind"), &device).during("taking the vsock from its driver")?;
    fs::write(format!("{DRIVER}/bind"), &device).during("giving the vsock to its driver")?;
    Ok(Answer::Again)
}
