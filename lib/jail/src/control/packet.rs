//! Packets with descriptors over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};

/// The most descriptors the kernel passes in one packet (`SCM_MAX_FD`).
const KERNELS_MOST: usize = 253;

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
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = match descriptors.is_empty() {
        true => &[][..],
        false => &rights[..],
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let text = [IoSlice::new(text)];
    let socket = socket.as_fd().as_raw_fd();
    match sendmsg::<()>(socket, &text, control, flags, None) {
        Ok(_) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// What came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// How many bytes.
    pub length: usize,
    /// It had no more bytes than there was room for, and no descriptors.
    pub whole: bool,
}

/// Receives a packet without descriptors, which the kernel closes if there are any; or fails: it
/// never waits. `None`-like zero bytes can be an empty packet or the end: see [`is_gone`].
pub fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<Received> {
    let socket = socket.as_fd().as_raw_fd();
    loop {
        let mut text = [IoSliceMut::new(room)];
        match recvmsg::<()>(socket, &mut text, None, MsgFlags::MSG_DONTWAIT) {
            Ok(received) => {
                let lost = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
                return Ok(Received {
                    length: received.bytes,
                    whole: !received.flags.intersects(lost),
                });
            }
            // It is told once when the other side ends with something of ours unread, before what
            // it had sent.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(why) => return Err(why.into()),
        }
    }
}

/// Waits for a packet, and answers how long it is; zero at the end.
pub fn await_length(socket: impl AsFd) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match recv(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Receives a packet with descriptors, which are closed on exec, or fails: it never waits. More
/// descriptors than the process may have, or than the kernel passes, are an error.
pub fn receive_with_descriptors(
    socket: impl AsFd,
    room: &mut [u8],
) -> io::Result<(Received, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; KERNELS_MOST]);
    let socket = socket.as_fd().as_raw_fd();
    let mut text = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(socket, &mut text, Some(&mut control), flags) {
            // As in `receive`.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            outcome => break outcome?,
        }
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = message {
            descriptors.extend(received.into_iter().map(|fd| {
                // SAFETY: the kernel has just made it, for us alone.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
    }
    let whole = !received.flags.contains(MsgFlags::MSG_TRUNC);
    let length = received.bytes;
    Ok((Received { length, whole }, descriptors))
}

/// Whether the other side has closed the connection.
pub fn is_gone(socket: impl AsFd) -> bool {
    let mut poll = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut poll, PollTimeout::ZERO);
    let told = poll[0].revents().unwrap_or(PollFlags::empty());
    ready.is_ok() && told.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
}
