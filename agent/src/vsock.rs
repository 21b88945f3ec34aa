//! The guest's ports that the host connects to, and the host's that the guest does.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, getpeername, listen, socket,
};
use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use trefoil_agent_protocol::HOST;
use trefoil_os::watched;

/// Connections that may wait until they are accepted.
const BACKLOG: i32 = 128;

/// A port that the host may connect to.
pub(crate) struct Port {
    listener: AsyncFd<OwnedFd>,
}

impl Port {
    /// Listens on it. Must be called within the event loop.
    ///
    /// # Errors
    /// What the system calls fail with.
    pub(crate) fn listen(port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(
            listener.as_raw_fd(),
            &VsockAddr::new(libc::VMADDR_CID_ANY, port),
        )?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(Self {
            listener: watched::readable(listener)?,
        })
    }

    /// The host's next connection, not blocking. Whoever else connects is turned away.
    ///
    /// # Errors
    /// What accepting fails with; the next one may succeed.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let stream = self
                .listener
                .async_io(Interest::READABLE, |listener| {
                    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                    Ok(accept_with(listener, flags)?)
                })
                .await?;
            let peer = getpeername::<VsockAddr>(stream.as_raw_fd());
            if peer.is_ok_and(|peer| peer.cid() == HOST) {
                return Ok(stream);
            }
        }
    }

    /// Hands each of the host's connections to `serve`, for as long as the event loop runs.
    pub(crate) async fn serve(self, mut serve: impl FnMut(OwnedFd)) {
        loop {
            match self.accept().await {
                Ok(stream) => serve(stream),
                Err(why) => {
                    log::warn!("accept a connection of the host's: {why}");
                    // For want of descriptors, say: it won't be better at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Connects to a port of the host's. The stream does not block. Must be called within the event loop.
///
/// # Errors
/// What connecting fails with: nobody is there, say.
#[cfg(feature = "confidential")]
pub(crate) async fn dial(port: u32) -> io::Result<OwnedFd> {
    use nix::sys::socket::{connect, getsockopt, sockopt};

    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(stream.as_raw_fd(), &VsockAddr::new(HOST, port)) {
        Ok(()) => return Ok(stream),
        Err(nix::Error::EINPROGRESS) => {}
        Err(why) => return Err(why.into()),
    }
    let stream = watched::watched(stream, Interest::WRITABLE)?;
    stream.writable().await?.retain_ready();
    match getsockopt(stream.get_ref(), sockopt::SocketError)? {
        0 => Ok(stream.into_inner()),
        why => Err(io::Error::from_raw_os_error(why)),
    }
}

/// Reads exactly so many bytes of a connection, and none that follow; hands it back with them. Must be
/// called within the event loop.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if there are fewer, or what reading fails with.
pub(crate) async fn read_exactly<const LENGTH: usize>(
    stream: OwnedFd,
) -> io::Result<(OwnedFd, [u8; LENGTH])> {
    let stream = watched::readable(stream)?;
    let mut bytes = [0; LENGTH];
    let mut filled = 0;
    while filled < LENGTH {
        let rest = &mut bytes[filled..];
        let read = |stream: &OwnedFd| Ok(nix::unistd::read(stream, &mut *rest)?);
        match stream.async_io(Interest::READABLE, read).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok((stream.into_inner(), bytes))
}
