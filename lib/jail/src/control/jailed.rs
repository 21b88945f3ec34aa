//! The jailed process's end of the control socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trefoil_os::descriptors::close_from;

use super::message::{Failure, MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, parse};
use super::packet;
use crate::exit::{Done, Exit};

/// The descriptor that a process finds its end at.
pub const CONTROL: RawFd = 3;

/// Where a signal handler may send its last words; negative without a socket.
static LAST_WORDS: AtomicI32 = AtomicI32::new(-1);

/// What has come.
#[derive(Debug)]
pub enum Received<R> {
    /// A request, with the descriptors that it brings.
    Request(R, Vec<OwnedFd>),
    /// A packet that is none, and what is wrong with it, which the parent is to be told.
    Wrong(Failure),
    /// Nothing now.
    Nothing,
}

/// The process's end.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// The end that this process was started with. Every descriptor above it is closed: whoever
    /// started us had no reason to leave one.
    ///
    /// # Errors
    /// If it was started with none.
    ///
    /// # Safety
    ///
    /// It is called once, and before anything in this process has opened a descriptor.
    pub unsafe fn take() -> Result<Self, Failure> {
        // SAFETY: by our contract nobody uses one of the descriptors.
        unsafe { close_from((CONTROL + 1).unsigned_abs()) };
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
    ///
    /// # Errors
    /// If it is none.
    pub fn over(socket: OwnedFd) -> Result<Self, Failure> {
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

    /// Waits for the first message: what the process is to be, and the descriptors that come with
    /// it, in their order.
    ///
    /// # Errors
    /// [`Failure::Gone`] if the parent is, and what else is wrong with what came.
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

    /// The next request, if there is one now, with the descriptors that it brings, if `brings` says that
    /// such a request does.
    ///
    /// # Errors
    /// [`Failure::Gone`] once the parent is, and what the kernel says.
    pub fn receive<R: DeserializeOwned>(
        &self,
        brings: impl FnOnce(&R) -> bool,
    ) -> Result<Received<R>, Failure> {
        const WHAT: &str = "a request";
        let mut room = [0; MOST_BYTES];
        let (received, descriptors) =
            match packet::receive_with_descriptors(&self.socket, &mut room) {
                Ok(received) => received,
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(why) => return Err(Failure::system("receive a request")(why)),
            };
        let text = room.get(..received.length).unwrap_or_default();
        if text.is_empty() && packet::is_gone(&self.socket) {
            return Err(Failure::Gone);
        }
        Ok(match parse::<R>(WHAT, text, received.whole) {
            Ok(request) if brings(&request) != descriptors.is_empty() => {
                Received::Request(request, descriptors)
            }
            Ok(_) => Received::Wrong(Failure::Wrong {
                what: WHAT,
                why: format!("{} descriptors came with it", descriptors.len()),
            }),
            Err(why) => Received::Wrong(why),
        })
    }

    /// Sends a message, unless the parent is gone or has left so many unread that there is no room:
    /// it is not waited for. Answers whether it was sent.
    pub fn send(&self, message: &impl Serialize) -> bool {
        serde_json::to_vec(message).is_ok_and(|text| packet::send(&self.socket, &text, &[]).is_ok())
    }

    /// Sends the last message and answers with what the process is to exit with.
    pub fn end<D: Done>(&self, exit: Exit<D>) -> i32 {
        let code = exit.code();
        self.send(&Message::<(), D>::Ended(exit));
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

    fn pair() -> (OwnedFd, Control) {
        let (ours, theirs) = packet::pair().expect("pair");
        (ours, Control::over(theirs).expect("over"))
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
