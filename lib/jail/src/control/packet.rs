//! Packets with descriptors over a Unix socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use trefoil_os::message::{self, Wait};

/// Two ends of a connection that nobody else can reach.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends a packet, or fails: it never waits.
pub fn send(socket: impl AsFd, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = [IoSlice::new(text)];
    message::send(socket, &text, descriptors, Wait::No)?;
    Ok(())
}

/// What came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// How many bytes.
    pub length: usize,
    /// It had no more bytes than there was room for, and no descriptors.
    pub whole: bool,
}

/// Receives a packet without descriptors, which never become ours if there are any; or fails: it
/// never waits. `None`-like zero bytes can be an empty packet or the end: see [`is_gone`].
pub fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<Received> {
    let received = again(|| message::receive_bytes(&socket, room, Wait::No))?;
    Ok(Received {
        length: received.length,
        whole: received.is_whole(),
    })
}

/// Waits for a packet, and answers how long it is; zero at the end.
pub fn await_length(socket: impl AsFd) -> io::Result<usize> {
    Ok(message::await_length(socket)?)
}

/// Receives a packet with descriptors, which are closed on exec, or fails: it never waits. More
/// descriptors than the process may have are an error, and none of them stays open.
pub fn receive_with_descriptors(
    socket: impl AsFd,
    room: &mut [u8],
) -> io::Result<(Received, Vec<OwnedFd>)> {
    let mut descriptors = Vec::new();
    let mut take = |descriptor| descriptors.push(descriptor);
    let received = again(|| message::receive(&socket, room, Wait::No, &mut take))?;
    if received.descriptors_lost {
        return Err(Errno::EMFILE.into());
    }
    let received = Received {
        length: received.length,
        whole: received.is_whole(),
    };
    Ok((received, descriptors))
}

/// That the other side has ended with something of ours unread is told once, before what it had sent.
fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::ECONNRESET) => {}
            outcome => return outcome,
        }
    }
}

/// Whether the other side has closed the connection.
pub fn is_gone(socket: impl AsFd) -> bool {
    let mut poll = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut poll, PollTimeout::ZERO);
    let told = poll[0].revents().unwrap_or(PollFlags::empty());
    ready.is_ok() && told.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
}
