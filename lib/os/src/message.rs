//! Messages with descriptors over Unix sockets (`SCM_RIGHTS`, unix(7)).
//!
//! Whatever is wrong with a message, every descriptor that came with it is owned before anything of it is
//! looked at, so that none is ever leaked, and all are closed on exec. What was lost on the way is told,
//! not guessed: [`Received`] has a flag for bytes and one for descriptors.
//!
//! Nothing here allocates: all functions may be called between fork and execve.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The most descriptors that the kernel passes with one message (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;

/// Room for as many.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// Whether a call waits until the socket is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes, unless the socket itself is non-blocking.
    Yes,
    /// `EAGAIN` instead.
    No,
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// How many bytes. Zero is an empty message or the end.
    pub length: usize,
    /// The message had more bytes than there was room for. They are lost.
    pub bytes_lost: bool,
    /// It had descriptors that did not arrive: none were asked for, this process may have no more open, or
    /// a security module refused. They are closed.
    pub descriptors_lost: bool,
}

impl Received {
    /// Nothing of the message was lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.bytes_lost && !self.descriptors_lost
    }
}

/// Sends the bytes of `parts`, one after another, with descriptors; how many bytes were taken, which over
/// a stream may be less than all. The descriptors go with the first byte. A reader that is gone is an
/// error, never a signal.
///
/// # Errors
/// The kernel's; `EMSGSIZE` for more than [`MOST_DESCRIPTORS`].
pub fn send(
    socket: impl AsFd,
    parts: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    let fits = descriptors.len() <= MOST_DESCRIPTORS;
    let pushed = descriptors.is_empty() || (fits && control.push(rights));
    if !pushed {
        return Err(Errno::EMSGSIZE);
    }
    let flags = match wait {
        Wait::Yes => SendFlags::NOSIGNAL,
        Wait::No => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    again(|| rustix::net::sendmsg(&socket, parts, &mut control, flags))
}

/// Receives a message with descriptors, of which each is given to `take`.
///
/// # Errors
/// The kernel's.
pub fn receive(
    socket: impl AsFd,
    room: &mut [u8],
    wait: Wait,
    mut take: impl FnMut(OwnedFd),
) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = receive_into(socket, room, &mut control, wait)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            came.for_each(&mut take);
        }
    }
    Ok(received)
}

/// Receives a message without descriptors; any that it has never become this process's.
///
/// # Errors
/// The kernel's.
pub fn receive_bytes(socket: impl AsFd, room: &mut [u8], wait: Wait) -> Result<Received, Errno> {
    receive_into(socket, room, &mut RecvAncillaryBuffer::default(), wait)
}

fn receive_into(
    socket: impl AsFd,
    room: &mut [u8],
    control: &mut RecvAncillaryBuffer<'_>,
    wait: Wait,
) -> Result<Received, Errno> {
    let flags = match wait {
        Wait::Yes => RecvFlags::CMSG_CLOEXEC,
        Wait::No => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    };
    let message = again(|| {
        let mut parts = [IoSliceMut::new(room)];
        rustix::net::recvmsg(&socket, &mut parts, control, flags)
    })?;
    Ok(Received {
        length: message.bytes,
        bytes_lost: message.flags.contains(ReturnFlags::TRUNC),
        descriptors_lost: message.flags.contains(ReturnFlags::CTRUNC),
    })
}

/// Waits for a message, which stays where it is, and answers how long it is; zero at the end.
///
/// # Errors
/// The kernel's.
pub fn await_length(socket: impl AsFd) -> Result<usize, Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    again(|| rustix::net::recv(&socket, &mut [0; 0], flags)).map(|(_, length)| length)
}

/// Makes a call until no signal interrupts it.
fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map_err(|why| Errno::from_raw(why.raw_os_error())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a pair")
    }

    fn null() -> File {
        File::open("/dev/null").expect("open")
    }

    fn say(to: &OwnedFd, text: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let sent = send(to, &[IoSlice::new(text)], descriptors, Wait::No).expect("send");
        assert_eq!(sent, text.len());
    }

    /// What was received, and the descriptors that came.
    fn hear(from: &OwnedFd, room: &mut [u8]) -> (Received, Vec<OwnedFd>) {
        let mut came = Vec::new();
        let received = receive(from, room, Wait::No, |fd| came.push(fd)).expect("receive");
        (received, came)
    }

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (one, other) = pair();
        let null = null();
        say(&one, b"first", &[null.as_fd(); 3]);
        say(&one, b"second", &[]);
        assert_eq!(await_length(&other), Ok(5));
        let mut room = [0; 16];
        let (first, came) = hear(&other, &mut room);
        assert_eq!(&room[..first.length], b"first");
        assert!(first.is_whole());
        assert_eq!(came.len(), 3);
        for fd in &came {
            assert!(fcntl_getfd(fd).expect("flags").contains(FdFlags::CLOEXEC));
        }
        let (second, came) = hear(&other, &mut room);
        assert_eq!(&room[..second.length], b"second");
        assert!(came.is_empty());
        let none = receive_bytes(&other, &mut room, Wait::No);
        assert_eq!(none, Err(Errno::EAGAIN));
        drop(one);
        let end = receive_bytes(&other, &mut room, Wait::Yes);
        assert_eq!(end, Ok(Received::default()));
        let gone = send(&other, &[IoSlice::new(b"x")], &[], Wait::No);
        assert_eq!(gone, Err(Errno::EPIPE));
    }

    #[test]
    fn what_is_lost_is_told() {
        let (one, other) = pair();
        let null = null();
        say(&one, b"long", &[null.as_fd()]);
        let (received, came) = hear(&other, &mut [0; 2]);
        assert_eq!((received.length, came.len()), (2, 1));
        assert!(received.bytes_lost && !received.descriptors_lost);
        say(&one, b"long", &[null.as_fd()]);
        let received = receive_bytes(&other, &mut [0; 4], Wait::No).expect("receive");
        assert!(received.descriptors_lost && !received.bytes_lost);
    }

    #[test]
    fn as_many_as_the_kernel_passes_arrive_and_no_more_are_sent() {
        let (one, other) = pair();
        let null = null();
        say(&one, b"x", &[null.as_fd(); MOST_DESCRIPTORS]);
        let (received, came) = hear(&other, &mut [0; 1]);
        assert!(received.is_whole());
        assert_eq!(came.len(), MOST_DESCRIPTORS);
        let many = [null.as_fd(); MOST_DESCRIPTORS + 1];
        let refused = send(&one, &[IoSlice::new(b"x")], &many, Wait::No);
        assert_eq!(refused, Err(Errno::EMSGSIZE));
    }

    /// The kernel says that some were lost only after it has installed those that there was room for.
    #[test]
    fn none_of_those_that_came_leaks_when_others_did_not() {
        const NAME: &str = "TREFOIL_TEST_FEW_DESCRIPTORS";
        // The limit is the whole process's: tests beside this one would meet it.
        if std::env::var_os(NAME).is_none() {
            let test = "message::tests::none_of_those_that_came_leaks_when_others_did_not";
            let itself = std::env::current_exe().expect("this program");
            let outcome = std::process::Command::new(itself)
                .args([test, "--exact", "--test-threads=1"])
                .env(NAME, "1")
                .output()
                .expect("run");
            let said = String::from_utf8_lossy(&outcome.stdout);
            assert!(
                outcome.status.success() && said.contains("1 passed"),
                "{said}"
            );
            return;
        }
        let (one, other) = pair();
        let null = null();
        let last = null.try_clone().expect("clone");
        let last = u64::from(std::os::fd::AsRawFd::as_raw_fd(&last).unsigned_abs());
        let before = getrlimit(Resource::Nofile);
        // Room for the clone, which is open still, and for one more.
        let few = Rlimit {
            current: Some(last + 2),
            ..before
        };
        say(&one, b"x", &[null.as_fd(); 10]);
        say(&one, b"y", &[null.as_fd()]);
        setrlimit(Resource::Nofile, few).expect("limit");
        let (received, came) = hear(&other, &mut [0; 1]);
        assert!(received.descriptors_lost);
        assert_eq!(came.len(), 1);
        drop(came);
        // There is room again for as many.
        let (received, came) = hear(&other, &mut [0; 1]);
        setrlimit(Resource::Nofile, before).expect("limit");
        assert!(received.is_whole());
        assert_eq!(came.len(), 1);
    }
}
