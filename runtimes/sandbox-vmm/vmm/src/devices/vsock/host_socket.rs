//! The host socket: the one descriptor through which connections come into the VMM and go out of it, a
//! Unix socket of type SEQPACKET. The VMM is jailed and can open nothing; whoever holds the other
//! end decides what a port leads to.
//!
//! A message is eight bytes and exactly one descriptor, which is one end of a connected Unix stream:
//!
//! ```text
//! le16 kind      1: a connection
//! le16 version   1
//! le32 port      from the VMM: the host's port that the guest has connected to
//!                to the VMM: the guest's port to connect to
//! ```
//!
//! There are no answers. A connection that does not come about, or no longer is, is a stream that
//! ends.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, setsockopt,
    socketpair, sockopt,
};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// A message without its descriptor.
const SIZE: usize = 8;
/// The kind and the version.
const CONNECTION: u32 = 1 << 16 | 1;

/// What came through the host socket.
#[derive(Debug)]
pub(super) enum Came {
    /// A connection for this port.
    Connection(u32, OwnedFd),
    /// One whose descriptor the kernel could not give us, as we have too many.
    Lost,
    /// Nothing now.
    Nothing,
    /// Nothing any more: the other end is closed.
    Closed,
}

/// Sends a connection through a host socket.
pub(super) fn send(host_socket: BorrowedFd<'_>, port: u32, stream: BorrowedFd<'_>) -> Result<()> {
    let mut message = [0; SIZE];
    message[..4].copy_from_slice(&CONNECTION.to_le_bytes());
    message[4..].copy_from_slice(&port.to_le_bytes());
    let streams = [stream.as_raw_fd()];
    sendmsg::<()>(
        host_socket.as_raw_fd(),
        &[IoSlice::new(&message)],
        &[ControlMessage::ScmRights(&streams)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Takes what comes through a host socket next. A message that is none is an error of kind `InvalidData`.
pub(super) fn receive(host_socket: BorrowedFd<'_>) -> Result<Came> {
    // One more, to see a message that is too long.
    let mut message = [0; SIZE + 1];
    // First of all every descriptor gets an owner, so that none is left open.
    let mut streams = Vec::new();
    let (count, cut) = match take(host_socket, &mut message, &mut streams) {
        Ok(taken) => taken,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Came::Nothing),
        Err(Errno::CONNRESET) => return Ok(Came::Closed),
        Err(why) => return Err(why.into()),
    };
    let wrong = |what: String| Err(Error::new(ErrorKind::InvalidData, what));
    let message = match message.get(..count) {
        Some([]) if streams.is_empty() => return Ok(Came::Closed),
        Some(message) if message.len() == SIZE => message,
        _ => return wrong(format!("a message has {count} bytes, not {SIZE}")),
    };
    let mut words = message
        .chunks_exact(4)
        .map(|word| word.try_into().map_or(0, u32::from_le_bytes));
    let (kind, port) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    if kind != CONNECTION {
        return wrong(format!(
            "a message is of kind {}, version {}, not a connection in version 1",
            kind & 0xffff,
            kind >> 16
        ));
    }
    match (streams.pop(), streams.is_empty(), cut) {
        (Some(stream), true, false) => Ok(Came::Connection(port, stream)),
        (Some(_), _, _) => wrong(format!(
            "a connection for port {port} has more than one descriptor"
        )),
        (None, _, true) => Ok(Came::Lost),
        (None, _, false) => wrong(format!("a connection for port {port} has no descriptor")),
    }
}

/// Takes a message, and the descriptors that came with it. How many bytes it has, and whether there
/// were descriptors that the kernel could not give us.
fn take(
    host_socket: BorrowedFd<'_>,
    message: &mut [u8],
    streams: &mut Vec<OwnedFd>,
) -> rustix::io::Result<(usize, bool)> {
    // Room for one descriptor is rounded up to two at least: that there are too many is seen.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut message = [IoSliceMut::new(message)];
    let received = recvmsg(host_socket, &mut message, &mut control, flags)?;
    for came in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = came {
            streams.extend(descriptors);
        }
    }
    let cut = received.flags.contains(ReturnFlags::CTRUNC);
    Ok((received.bytes, cut))
}

/// The parent's end of a host socket. It never blocks: wait for it to be readable with its descriptor.
#[derive(Debug)]
pub struct HostSocket(OwnedFd);

impl HostSocket {
    /// Makes a host socket: the parent's end, and the one that the VMM is handed.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        Ok((Self(ours), theirs))
    }

    /// Connects to a port of the guest's. The stream, which does not block, can be written at once.
    /// If nobody there accepts, it ends.
    ///
    /// Fails with `WouldBlock` while the VMM has too many connections to take still.
    pub fn connect(&self, port: u32) -> Result<UnixStream> {
        let (ours, theirs) = stream_pair()?;
        send(self.0.as_fd(), port, theirs.as_fd())?;
        Ok(ours.into())
    }

    /// Takes the next connection from the guest: the port it is for and its stream, which does not
    /// block.
    ///
    /// Fails with `WouldBlock` if there is none, with `UnexpectedEof` if the VMM is gone, and with
    /// `InvalidData` if what came is not a connection.
    pub fn accept(&self) -> Result<(u32, UnixStream)> {
        let error = |kind, what| Err(Error::new(kind, what));
        match receive(self.0.as_fd())? {
            Came::Connection(port, stream) => match is_stream(&stream) {
                true => Ok((port, stream.into())),
                false => error(
                    ErrorKind::InvalidData,
                    "what came with a connection is no Unix stream",
                ),
            },
            Came::Lost => error(
                ErrorKind::InvalidData,
                "a connection is lost: this process has too many descriptors",
            ),
            Came::Nothing => error(ErrorKind::WouldBlock, "no connection is waiting"),
            Came::Closed => error(
                ErrorKind::UnexpectedEof,
                "the VMM has closed the host socket",
            ),
        }
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How large the queue of what was sent to either end of a connection and not received is asked to
/// be, in bytes. Linux doubles it, for what it needs itself, and as that is little, nearly twice as
/// much fits in. That is more than a guest may have under way; what does not fit is copied once
/// more, into memory of ours. It is all that is granted as Linux is set up.
pub const HELD: usize = 208 << 10;

/// Both ends of a connection.
pub(super) fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (one, two) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?;
    for end in [&one, &two] {
        setsockopt(end, sockopt::SndBuf, &HELD)?;
    }
    Ok((one, two))
}

/// What comes out of a jail is looked at: reading a stream and reading anything else are not the
/// same.
fn is_stream(stream: &OwnedFd) -> bool {
    getsockopt(stream, sockopt::SockType) == Ok(SockType::Stream)
        && nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(stream.as_raw_fd()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::RawFd;

    use super::super::super::testing::descriptors::making_a_process;
    use super::*;

    fn raw(host_socket: &impl AsFd, message: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(message)];
        sendmsg::<()>(
            host_socket.as_fd().as_raw_fd(),
            &parts,
            rights,
            MsgFlags::empty(),
            None,
        )
        .expect("send");
    }

    #[test]
    fn connections_go_both_ways() {
        let (parent, vmm) = HostSocket::pair().expect("pair");
        assert_eq!(
            parent.accept().expect_err("nothing").kind(),
            ErrorKind::WouldBlock
        );
        assert!(matches!(receive(vmm.as_fd()), Ok(Came::Nothing)));

        let mut ours = parent.connect(1024).expect("connect");
        let Ok(Came::Connection(1024, theirs)) = receive(vmm.as_fd()) else {
            panic!("no connection came");
        };
        ours.write_all(b"in").expect("write");
        let mut bytes = [0; 2];
        UnixStream::from(theirs)
            .read_exact(&mut bytes)
            .expect("read");
        assert_eq!(&bytes, b"in");

        let (_ours, theirs) = stream_pair().expect("pair");
        send(vmm.as_fd(), 7, theirs.as_fd()).expect("send");
        assert_eq!(parent.accept().expect("accept").0, 7);
        drop(vmm);
        assert_eq!(
            parent.accept().expect_err("closed").kind(),
            ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn what_is_no_connection_is_said_so() {
        let (parent, vmm) = HostSocket::pair().expect("pair");
        let good = [1, 0, 1, 0, 9, 0, 0, 0];
        let (one, two) = stream_pair().expect("pair");
        let file = tempfile::tempfile().expect("file");
        let (one, two, file) = (one.as_raw_fd(), two.as_raw_fd(), file.as_raw_fd());
        let cases: [(&[u8], &[RawFd], &str); 7] = [
            (&good, &[], "port 9 has no descriptor"),
            (&good, &[one, two], "more than one descriptor"),
            (&good, &[file], "no Unix stream"),
            (&good[..7], &[one], "has 7 bytes, not 8"),
            (&[0; 20], &[one], "has 9 bytes, not 8"),
            (&[2, 0, 1, 0, 9, 0, 0, 0], &[one], "kind 2, version 1"),
            (&[1, 0, 3, 0, 9, 0, 0, 0], &[one], "kind 1, version 3"),
        ];
        for (message, fds, expected) in cases {
            raw(&vmm, message, fds);
            let why = parent.accept().expect_err("refused");
            assert_eq!(why.kind(), ErrorKind::InvalidData);
            assert!(why.to_string().contains(expected), "{why}");
        }
        raw(&vmm, &good, &[one]);
        assert_eq!(parent.accept().expect("still works").0, 9);
    }

    #[test]
    fn of_what_is_refused_nothing_stays_open() {
        let (parent, vmm) = HostSocket::pair().expect("pair");
        for count in [2, 3, 20] {
            let (theirs, ours) = UnixStream::pair().expect("pair");
            let message = [1, 0, 1, 0, 9, 0, 0, 0];
            raw(&vmm, &message, &vec![theirs.as_raw_fd(); count]);
            drop(theirs);
            let why = parent.accept().expect_err("refused");
            assert!(why.to_string().contains("more than one"), "{why}");
            assert_eq!((&ours).read(&mut [0]).expect("the end"), 0);
        }
    }

    #[test]
    fn a_connection_there_is_no_descriptor_for_is_lost_and_no_more() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        const ALONE: &str = "TREFOIL_TEST_ALONE";
        const NAME: &str = "devices::vsock::host_socket::tests::a_connection_there_is_no_descriptor_for_is_lost_and_no_more";
        if std::env::var_os(ALONE).is_none() {
            // In a process of its own: what it does to descriptors is all threads'.
            let program = std::env::current_exe().expect("program");
            let mut again = std::process::Command::new(program);
            again.args(["--exact", NAME]).env(ALONE, "1");
            let mut again = making_a_process(|| again.spawn()).expect("run");
            return assert!(again.wait().expect("wait").success());
        }
        let (parent, vmm) = HostSocket::pair().expect("pair");
        let mut lost = parent.connect(1).expect("connect");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        let next = vmm.try_clone().expect("clone").as_raw_fd() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, next, hard).expect("limit");
        assert!(matches!(receive(vmm.as_fd()), Ok(Came::Lost)));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("limit");
        assert_eq!(lost.read(&mut [0]).expect("the end"), 0);
        let _stream = parent.connect(2).expect("connect");
        assert!(matches!(receive(vmm.as_fd()), Ok(Came::Connection(2, _))));
    }

    #[test]
    fn a_full_host_socket_is_an_error_at_once() {
        let (parent, _vmm) = HostSocket::pair().expect("pair");
        let why = (0..100_000)
            .find_map(|_| parent.connect(1).err())
            .expect("it is full at some time");
        assert_eq!(why.kind(), ErrorKind::WouldBlock);
    }
}
