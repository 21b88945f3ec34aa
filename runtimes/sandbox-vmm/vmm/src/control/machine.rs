//! The machine's end of the control socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat};
use serde::de::DeserializeOwned;

use super::{
    Answer, Failure, MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, Request, packet,
    parse,
};
use crate::exit::Exit;

/// The descriptor that a machine's process finds its end at.
pub const CONTROL: RawFd = 3;

/// Where a signal handler may send its last words; negative without a socket.
static LAST_WORDS: AtomicI32 = AtomicI32::new(-1);

/// The machine's end.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// The end that this process was started with. Every descriptor above it is closed: whoever
    /// started us had no reason to leave one.
    ///
    /// # Safety
    ///
    /// It is called once, and before anything in this process has opened a descriptor.
    pub unsafe fn take() -> Result<Self, Failure> {
        // SAFETY: the call takes numbers. By our contract nobody uses one of the descriptors.
        unsafe { libc::close_range((CONTROL + 1).unsigned_abs(), u32::MAX, 0) };
        // SAFETY: the call takes a number.
        if unsafe { libc::fcntl(CONTROL, libc::F_GETFD) } < 0 {
            return Err(not_ours("there is none"));
        }
        // SAFETY: it is open, and ours by our contract.
        let control = Self::over(unsafe { OwnedFd::from_raw_fd(CONTROL) })?;
        LAST_WORDS.store(CONTROL, Ordering::Relaxed);
        Ok(control)
    }

    /// Any end of a connection for packets.
    pub(crate) fn over(socket: OwnedFd) -> Result<Self, Failure> {
        let kind = getsockopt(&socket, sockopt::SockType)
            .map_err(|_| not_ours("the descriptor is no socket"))?;
        let family = getsockname::<SockaddrStorage>(socket.as_raw_fd())
            .ok()
            .and_then(|address| address.family());
        if kind != SockType::SeqPacket || family != Some(AddressFamily::Unix) {
            return Err(not_ours("the socket is not a Unix one for packets"));
        }
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(Failure::system("prepare the control socket"))?;
        Ok(Self { socket })
    }

    /// Waits for the first message: what the machine is to be, and the descriptors that come with
    /// it, in their order.
    pub fn launch<C: DeserializeOwned>(&self) -> Result<(C, Vec<OwnedFd>), Failure> {
        const WHAT: &str = "the configuration";
        let wrong = |why| Failure::Wrong { what: WHAT, why };
        let system = Failure::system::<std::io::Error>;
        let length =
            packet::await_length(&self.socket).map_err(system("wait for the configuration"))?;
        if length == 0 {
            return Err(Failure::Gone);
        }
        if length > MOST_LAUNCH_BYTES {
            return Err(wrong(format!(
                "it has {length} bytes, more than {MOST_LAUNCH_BYTES}"
            )));
        }
        let mut text = vec![0; length];
        let (received, descriptors) = packet::receive_with_descriptors(&self.socket, &mut text)
            .map_err(system("receive the configuration"))?;
        if descriptors.len() > MOST_DESCRIPTORS {
            return Err(wrong(format!(
                "{} descriptors came with it, more than {MOST_DESCRIPTORS}",
                descriptors.len()
            )));
        }
        for (number, descriptor) in descriptors.iter().enumerate() {
            // With a directory and a way to open a path, an empty root is no jail.
            if is_directory(descriptor.as_fd()) {
                return Err(wrong(format!("descriptor {number} is a directory")));
            }
        }
        let configuration = parse(WHAT, &text, received.whole)?;
        // Nobody waits here from now on, in signal handlers either.
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(Failure::system("prepare the control socket"))?;
        Ok((configuration, descriptors))
    }

    /// The next request, if there is one now, with the descriptors that it brings: some for a disk's
    /// arrival, none for all else. A packet that is none is answered with what is wrong, and `None`;
    /// [`Failure::Gone`] once the parent is.
    pub fn receive(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, Failure> {
        let mut room = [0; MOST_BYTES];
        let (received, descriptors) =
            match packet::receive_with_descriptors(&self.socket, &mut room) {
                Ok(received) => received,
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(why) => return Err(Failure::system("receive a request")(why)),
            };
        let text = room.get(..received.length).unwrap_or_default();
        if text.is_empty() && packet::is_gone(&self.socket) {
            return Err(Failure::Gone);
        }
        let request = parse("a request", text, received.whole).and_then(|request| {
            let is_disk = matches!(request, Request::Attach(_));
            if is_disk == descriptors.is_empty() {
                let count = descriptors.len();
                let why = format!("{count} descriptors came with it");
                return Err(Failure::Wrong {
                    what: "a request",
                    why,
                });
            }
            Ok(request)
        });
        match request {
            Ok(request) => Ok(Some((request, descriptors))),
            Err(why) => {
                self.send(&Message::Answer(Answer::Refused(why.to_string())));
                Ok(None)
            }
        }
    }

    /// Sends a message, unless the parent is gone or has left so many unread that there is no room:
    /// it is not waited for. Answers whether it was sent.
    pub fn send(&self, message: &Message) -> bool {
        serde_json::to_vec(message).is_ok_and(|text| packet::send(&self.socket, &text, &[]).is_ok())
    }

    /// Sends the last message and answers with what the process is to exit with.
    pub fn end(self, exit: Exit) -> i32 {
        let code = exit.code();
        self.send(&Message::Ended(exit));
        code
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let ours = self.socket.as_raw_fd();
        let _ = LAST_WORDS.compare_exchange(ours, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Sends bytes to the parent from a signal handler.
pub(crate) fn send_last_words(text: &[u8]) {
    let socket = LAST_WORDS.load(Ordering::Relaxed);
    if socket >= 0 {
        // SAFETY: the bytes are readable; a descriptor that is closed meanwhile is an error.
        unsafe { libc::write(socket, text.as_ptr().cast(), text.len()) };
    }
}

/// Whether the parent has closed its end of the socket that this process was started with.
pub(crate) fn parent_is_gone() -> bool {
    let socket = LAST_WORDS.load(Ordering::Relaxed);
    // SAFETY: it is not negative, and open as long as the number is there.
    socket >= 0 && packet::is_gone(unsafe { BorrowedFd::borrow_raw(socket) })
}

fn is_directory(descriptor: BorrowedFd<'_>) -> bool {
    fstat(descriptor).is_ok_and(|status| {
        SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
    })
}

fn not_ours(why: &str) -> Failure {
    Failure::Wrong {
        what: "the control socket, descriptor 3",
        why: format!("{why}; this program is started by another that holds its other end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Stats;

    fn pair() -> (OwnedFd, Control) {
        let (ours, theirs) = packet::pair().expect("pair");
        (ours, Control::over(theirs).expect("over"))
    }

    fn say(to: &OwnedFd, text: &[u8]) {
        packet::send(to, text, &[]).expect("send");
    }

    fn hear(from: &OwnedFd) -> Message {
        let mut room = [0; MOST_BYTES];
        let received = packet::receive(from, &mut room).expect("receive");
        parse("it", &room[..received.length], received.whole).expect("parse")
    }

    fn refusal(from: &OwnedFd) -> String {
        match hear(from) {
            Message::Answer(Answer::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_and_answers_go_both_ways() {
        let (ours, mut control) = pair();
        assert!(matches!(control.receive(), Ok(None)));
        say(&ours, b"\"pause\"");
        say(&ours, b" \"power-off\" ");
        assert!(matches!(control.receive(), Ok(Some((Request::Pause, _)))));
        assert!(matches!(
            control.receive(),
            Ok(Some((Request::PowerOff, _)))
        ));
        assert!(matches!(control.receive(), Ok(None)));
        let answer = Message::Answer(Answer::Done(Stats { paused: true }));
        assert!(control.send(&answer));
        assert_eq!(hear(&ours), answer);
        assert_eq!(control.end(Exit::Reset), 11);
        assert_eq!(hear(&ours), Message::Ended(Exit::Reset));
        assert!(packet::is_gone(&ours));
    }

    #[test]
    fn a_wrong_request_is_refused_and_the_next_one_is_not() {
        let (ours, mut control) = pair();
        let long = vec![b' '; MOST_BYTES + 1];
        for (wrong, why) in [
            (&b"\"reboot\""[..], "unknown variant `reboot`"),
            (b"{}", "expected value"),
            (b"\xff\xfe", "expected value"),
            (b"\"pause\" \"kill\"", "trailing characters"),
            (b"", "EOF while parsing"),
            (&long, "more than 8192 bytes"),
        ] {
            say(&ours, wrong);
            assert!(matches!(control.receive(), Ok(None)));
            let said = refusal(&ours);
            assert!(said.starts_with("read a request: "), "{said}");
            assert!(said.contains(why), "{said}");
        }
        packet::send(&ours, b"\"kill\"", &[ours.as_fd()]).expect("send");
        assert!(matches!(control.receive(), Ok(None)));
        assert!(refusal(&ours).contains("1 descriptors came with it"));
        let disk = br#"{"attach":{"device":4,"read-only":false,"serial":"late"}}"#;
        say(&ours, disk);
        assert!(matches!(control.receive(), Ok(None)));
        assert!(refusal(&ours).contains("0 descriptors came with it"));
        packet::send(&ours, disk, &[ours.as_fd(), ours.as_fd()]).expect("send");
        let received = control.receive().expect("receive").expect("request");
        assert!(matches!(received.0, Request::Attach(_)), "{received:?}");
        assert_eq!(received.1.len(), 2);
        drop(received);
        say(&ours, b"\"kill\"");
        assert!(matches!(control.receive(), Ok(Some((Request::Kill, _)))));
        drop(ours);
        assert!(matches!(control.receive(), Err(Failure::Gone)));
    }

    #[test]
    fn a_parent_that_does_not_read_is_not_waited_for() {
        let (ours, mut control) = pair();
        let sent = (0..100_000)
            .take_while(|_| control.send(&Message::Running))
            .count();
        assert!((16..100_000).contains(&sent), "{sent}");
        say(&ours, b"\"nonsense\"");
        assert!(matches!(control.receive(), Ok(None)));
    }

    #[test]
    fn the_first_message_brings_descriptors_in_order() {
        let (ours, control) = pair();
        let files: Vec<_> = (0..MOST_DESCRIPTORS)
            .map(|_| tempfile::tempfile().expect("file"))
            .collect();
        let lent: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        packet::send(&ours, b"[7]", &lent).expect("send");
        let (configuration, descriptors) = control.launch::<Vec<u8>>().expect("launch");
        assert_eq!(configuration, [7]);
        let inode = |fd: BorrowedFd<'_>| fstat(fd).expect("stat").st_ino;
        assert!(
            std::iter::zip(&files, &descriptors)
                .all(|(ours, theirs)| inode(ours.as_fd()) == inode(theirs.as_fd()))
        );
        assert_eq!(descriptors.len(), MOST_DESCRIPTORS);
        let flags = fcntl(&descriptors[0], FcntlArg::F_GETFD).expect("flags");
        assert_eq!(flags, libc::FD_CLOEXEC);
    }

    #[test]
    fn a_wrong_first_message_is_one_sentence() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let root = std::fs::File::open("/").expect("open");
        let many = vec![null.as_fd(); MOST_DESCRIPTORS + 1];
        let long = vec![b' '; MOST_LAUNCH_BYTES + 1];
        let expected = |text: &[u8], descriptors: &[BorrowedFd<'_>], why: &str| {
            let (ours, control) = pair();
            packet::send(&ours, text, descriptors).expect("send");
            let failure = control.launch::<Vec<u8>>().expect_err(why).to_string();
            assert!(failure.starts_with("read the configuration: "), "{failure}");
            assert!(failure.contains(why), "{failure}");
        };
        expected(b"[7", &[], "EOF while parsing a list");
        expected(b"{\"a\":1}", &[], "invalid type: map");
        expected(&long, &[], "it has 65537 bytes, more than 65536");
        expected(b"[7]", &many, "201 descriptors came with it, more than 200");
        expected(
            b"[7]",
            &[null.as_fd(), root.as_fd()],
            "descriptor 1 is a directory",
        );
        let (ours, control) = pair();
        drop(ours);
        assert!(matches!(control.launch::<()>(), Err(Failure::Gone)));
    }

    #[test]
    fn only_a_socket_for_packets_will_do() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let why = Control::over(null.into()).expect_err("no socket");
        assert!(why.to_string().contains("is no socket"), "{why}");
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let why = Control::over(stream.into()).expect_err("a stream");
        assert!(
            why.to_string().contains("not a Unix one for packets"),
            "{why}"
        );
    }
}
