//! Carrying bytes between two descriptors, on the one thread of an event loop.
//!
//! One buffer serves every stream of the process: bytes stay in it only between a read and the write
//! that follows at once. What the receiver doesn't take is kept aside, and no more is read before it
//! has been taken, so a slow reader slows its own writer and nothing else.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::watched::watched;

/// As much as a pipe holds by default.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A descriptor to relay from or to. What can't be polled (a plain file) is simply always ready.
#[derive(Debug)]
pub enum Stream {
    /// A pipe, socket or terminal.
    Polled(AsyncFd<OwnedFd>),
    /// A file.
    Plain(OwnedFd),
}

impl Stream {
    /// Takes over `fd` and makes it non-blocking. Note that this changes the open file description,
    /// which any duplicate of `fd` shares.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        match watched(fd, Interest::READABLE | Interest::WRITABLE) {
            Ok(fd) => Ok(Stream::Polled(fd)),
            Err(error) => {
                let (fd, why) = error.into_parts();
                match why.raw_os_error() {
                    // epoll(7) takes no plain files.
                    Some(libc::EPERM) => Ok(Stream::Plain(fd)),
                    _ => Err(why),
                }
            }
        }
    }

    /// Waits until there is something to read and passes it on.
    async fn pass_on(&self, to: &Stream) -> io::Result<Passed> {
        match self {
            Stream::Polled(fd) => {
                fd.async_io(Interest::READABLE, |fd| pass_on(fd.as_fd(), to))
                    .await
            }
            Stream::Plain(fd) => pass_on(fd.as_fd(), to),
        }
    }

    /// Writes what the descriptor takes at once: 0 if that is nothing.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match nix::unistd::write(self, bytes) {
            Ok(n) => Ok(n),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(why) => Err(why.into()),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = match self {
                Stream::Polled(fd) => {
                    fd.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                        .await?
                }
                Stream::Plain(_) => self.try_write(bytes)?,
            };
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Polled(fd) => fd.get_ref().as_fd(),
            Stream::Plain(fd) => fd.as_fd(),
        }
    }
}

/// What a read led to: how much was read, and what of it has not been taken yet.
struct Passed {
    read: usize,
    rest: io::Result<Vec<u8>>,
}

/// Reads once and writes at once.
fn pass_on(from: BorrowedFd<'_>, to: &Stream) -> io::Result<Passed> {
    SHARED.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER, 0);
        let read = nix::unistd::read(from, buffer)?;
        let bytes = &buffer[..read];
        let rest = to.try_write(bytes).map(|n| bytes[n..].to_vec());
        Ok(Passed { read, rest })
    })
}

/// Carries bytes from `from` to `to` until the first ends or the second takes no more. A terminal
/// whose last user has gone reads as an error (EIO), which is its end if it is read twice. Returns the
/// bytes carried.
///
/// # Errors
/// What reading or writing fails with.
pub async fn copy(from: &Stream, to: &Stream) -> io::Result<u64> {
    copy_until(from, to, &Notify::new()).await
}

/// As [`copy`], but once `stop` is notified only what has been sent by then is carried.
///
/// # Errors
/// What reading or writing fails with.
pub async fn copy_until(from: &Stream, to: &Stream, stop: &Notify) -> io::Result<u64> {
    let mut carried = 0;
    let mut stopping = false;
    let mut hung_up = false;
    loop {
        let outcome = if stopping {
            pass_on(from.as_fd(), to)
        } else {
            tokio::select! {
                biased;
                outcome = from.pass_on(to) => outcome,
                () = stop.notified() => {
                    stopping = true;
                    continue;
                }
            }
        };
        match outcome {
            Ok(Passed { read: 0, .. }) => return Ok(carried),
            Ok(Passed { read, rest }) => {
                to.write_all(&rest?).await?;
                carried += read as u64;
            }
            Err(why) if stopping && why.kind() == io::ErrorKind::WouldBlock => return Ok(carried),
            // Linux (`n_tty_read`) checks for input before it checks for a hang-up: what was written
            // between the two checks is still there.
            Err(why) if why.raw_os_error() == Some(libc::EIO) && !hung_up => hung_up = true,
            Err(why) if why.raw_os_error() == Some(libc::EIO) => return Ok(carried),
            Err(why) => return Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pipe() -> (OwnedFd, OwnedFd) {
        // Not for children that other tests start.
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe")
    }

    /// The writer closes the terminal right after its last byte. The moment between the kernel's two checks
    /// can't be had at will: this shows that a hang-up is an end and loses nothing, not that one read more
    /// was needed.
    #[tokio::test]
    async fn what_a_terminal_was_given_last_arrives() {
        const LENGTH: usize = 12_000;
        for _ in 0..50 {
            let pty = nix::pty::openpty(None, None).expect("terminal");
            let mut mode = nix::sys::termios::tcgetattr(&pty.slave).expect("mode");
            nix::sys::termios::cfmakeraw(&mut mode);
            let now = nix::sys::termios::SetArg::TCSANOW;
            nix::sys::termios::tcsetattr(&pty.slave, now, &mode).expect("raw");
            let mut slave = std::fs::File::from(pty.slave);
            let writer = std::thread::spawn(move || slave.write_all(&[7; LENGTH]).expect("write"));
            let nowhere = std::fs::File::options()
                .write(true)
                .open("/dev/null")
                .expect("open");
            let from = Stream::new(pty.master).expect("stream");
            let to = Stream::new(nowhere.into()).expect("stream");
            let carried = copy(&from, &to).await.expect("copy");
            writer.join().expect("writer");
            assert_eq!(carried, LENGTH as u64);
        }
    }

    #[tokio::test]
    async fn everything_arrives_in_order_through_a_slow_reader() {
        let (from_read, from_write) = pipe();
        let (to_read, to_write) = pipe();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            std::fs::File::from(from_write)
                .write_all(&sent)
                .expect("write");
        });
        let reader = std::thread::spawn(move || {
            let mut file = std::fs::File::from(to_read);
            let mut got = Vec::new();
            let mut piece = [0; 7919];
            loop {
                match file.read(&mut piece).expect("read") {
                    0 => break got,
                    n => got.extend_from_slice(&piece[..n]),
                }
            }
        });
        let from = Stream::new(from_read).expect("from");
        let to = Stream::new(to_write).expect("to");
        let carried = copy(&from, &to).await.expect("copy");
        drop(to);
        writer.join().expect("writer");
        assert_eq!(carried, expected.len() as u64);
        assert!(reader.join().expect("reader") == expected);
    }

    #[tokio::test]
    async fn stopping_carries_what_has_been_sent_and_no_more() {
        let (from_read, from_write) = pipe();
        let (to_read, to_write) = pipe();
        let mut writer = std::fs::File::from(from_write);
        writer.write_all(b"sent").expect("write");
        let stop = Notify::new();
        stop.notify_one();
        let to = Stream::new(to_write).expect("to");
        let carried = copy_until(&Stream::new(from_read).expect("from"), &to, &stop).await;
        assert_eq!(carried.expect("copy"), 4);
        drop(to);
        let mut got = String::new();
        std::fs::File::from(to_read)
            .read_to_string(&mut got)
            .expect("read");
        assert_eq!(got, "sent");
    }

    #[tokio::test]
    async fn a_plain_file_can_take_the_output() {
        let (from_read, from_write) = pipe();
        let path = std::env::temp_dir().join(format!("relay-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("create");
        std::fs::File::from(from_write)
            .write_all(b"to a file")
            .expect("write");
        let to = Stream::new(file.into()).expect("to");
        assert!(matches!(to, Stream::Plain(_)));
        copy(&Stream::new(from_read).expect("from"), &to)
            .await
            .expect("copy");
        let got = std::fs::read(&path).expect("read");
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(got, b"to a file");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_is_an_error() {
        let (from_read, from_write) = pipe();
        let (to_read, to_write) = pipe();
        drop(to_read);
        std::fs::File::from(from_write)
            .write_all(b"x")
            .expect("write");
        let outcome = copy(
            &Stream::new(from_read).expect("from"),
            &Stream::new(to_write).expect("to"),
        )
        .await;
        assert_eq!(
            outcome.expect_err("no reader").kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
