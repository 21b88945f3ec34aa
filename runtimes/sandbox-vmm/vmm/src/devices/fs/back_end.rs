//! What is said to the file server, and what it answers: the front end's side of vhost-user.
//!
//! The crate `vhost` has the messages, and a front end too; but that one waits for an answer as long
//! as it takes, time-outs of the socket included. The server is a process of its own, and one that
//! hangs must not hang the machine: here every wait has an end. It is the socket's own, set before
//! the jail closes, so that a virtual CPU's thread needs no call for it that it has not got.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use vhost::vhost_user::message::FrontendReq;

/// A message's request, flags and the size of what follows.
const HEADER: usize = 12;
/// All answers that are asked for are that long.
const ANSWER: usize = 8;
const VERSION: u32 = 1;
const IS_ANSWER: u32 = 1 << 2;
const NEEDS_ANSWER: u32 = 1 << 3;
/// How long one call may wait before the clock is looked at.
const PATIENCE: Duration = Duration::from_millis(50);

/// The file server, as far as it can be talked to.
pub(super) struct BackEnd {
    socket: UnixStream,
    /// Whether it says of every request whether it could do it.
    acknowledges: bool,
    /// Requests of which it has not said so yet.
    awaited: Vec<FrontendReq>,
}

impl BackEnd {
    /// Takes a connected socket that nobody else uses.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            acknowledges: false,
            awaited: Vec::new(),
        })
    }

    /// From now on the server acknowledges requests.
    pub(super) fn acknowledges(&mut self) {
        self.acknowledges = true;
    }

    /// The descriptor, to be watched.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Gives up on the server. It sees that, too.
    pub(super) fn hang_up(&self) {
        // It fails only where the server has hung up before.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Sends a request that has no answer of its own.
    pub(super) fn tell(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        fds: &[RawFd],
        until: Instant,
    ) -> io::Result<()> {
        let flags = match self.acknowledges {
            true => {
                self.awaited.push(request);
                VERSION | NEEDS_ANSWER
            }
            false => VERSION,
        };
        self.send(request, flags, body, fds, until)
            .map_err(of(request))
    }

    /// Waits until the server has done all that it was told, or says that it can't.
    pub(super) fn settle(&mut self, until: Instant) -> io::Result<()> {
        for request in std::mem::take(&mut self.awaited) {
            let answer = self.receive(request, until).map_err(of(request))?;
            if answer != [0; ANSWER] {
                return Err(of(request)(io::Error::other("the server refuses")));
            }
        }
        Ok(())
    }

    /// Sends a request and waits for its answer.
    pub(super) fn ask(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        until: Instant,
    ) -> io::Result<u64> {
        self.settle(until)?;
        self.send(request, VERSION, body, &[], until)
            .and_then(|()| self.receive(request, until))
            .map(u64::from_ne_bytes)
            .map_err(of(request))
    }

    fn send(
        &self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        fds: &[RawFd],
        until: Instant,
    ) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        for field in [u32::from(request), flags, size] {
            message.extend(field.to_ne_bytes());
        }
        message.extend(body);
        let mut left = message.as_slice();
        // The descriptors go with the first bytes.
        let rights = [ControlMessage::ScmRights(fds)];
        let mut control = match fds {
            [] => &rights[..0],
            _ => &rights,
        };
        while !left.is_empty() {
            in_time(until)?;
            let outcome = sendmsg::<()>(
                self.socket.as_raw_fd(),
                &[io::IoSlice::new(left)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
            match outcome {
                Ok(count) => {
                    left = left.get(count..).unwrap_or_default();
                    control = &[];
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(why) => return Err(lost(why)),
            }
        }
        Ok(())
    }

    fn receive(&self, request: FrontendReq, until: Instant) -> io::Result<[u8; ANSWER]> {
        let mut message = [0; HEADER + ANSWER];
        let mut length = 0;
        while let Some(rest) = message.get_mut(length..)
            && !rest.is_empty()
        {
            in_time(until)?;
            // Without a place for descriptors, those that come along are closed by the kernel.
            match recv(self.socket.as_raw_fd(), rest, MsgFlags::empty()) {
                Ok(0) => return Err(lost(Errno::EPIPE)),
                Ok(count) => length += count,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(why) => return Err(lost(why)),
            }
        }
        let (header, answer) = message.split_at(HEADER);
        let mut expected = Vec::with_capacity(HEADER);
        for field in [u32::from(request), VERSION | IS_ANSWER, ANSWER as u32] {
            expected.extend(field.to_ne_bytes());
        }
        match answer.try_into() {
            Ok(answer) if header == expected => Ok(answer),
            _ => Err(io::Error::other(format!(
                "the server's answer begins with {header:02x?}, not {expected:02x?}"
            ))),
        }
    }
}

/// What a call's failure says of the server.
fn lost(why: Errno) -> io::Error {
    match why {
        Errno::EPIPE | Errno::ECONNRESET => io::Error::other("the server has hung up"),
        why => why.into(),
    }
}

fn in_time(until: Instant) -> io::Result<()> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(io::Error::other("the server takes too long")),
    }
}

/// Says which request went wrong.
fn of(request: FrontendReq) -> impl Fn(io::Error) -> io::Error {
    move |why| io::Error::new(why.kind(), format!("{request:?}: {why}"))
}
