//! Telling the server what is shared.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_os::lock;

use crate::message::{Change, DONE};

/// How long the server may take: to start, beside all that starts with it, or to finish the request of the
/// guest's that it is at.
const LIMIT: Duration = Duration::from_secs(30);

/// Our end of the socket. One is told at a time.
#[derive(Debug)]
pub struct ChangeSocket(Mutex<OwnedFd>);

impl ChangeSocket {
    /// Over this socket, for packets.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    /// Tells the server of a change, and waits until it has made it.
    pub fn tell(&self, change: &Change) -> Result<()> {
        const DOING: &str = "tell the file server";
        let text = serde_json::to_vec(change).context(|| DOING)?;
        let socket = lock(&self.0);
        let number = socket.as_raw_fd();
        // An answer that came too late once is not this one's.
        while recv(number, &mut [0; 16], MsgFlags::MSG_DONTWAIT).is_ok_and(|length| length > 0) {}
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(number, &text, flags) {
            Ok(_) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(gone(DOING)),
            Err(why) => return Err(why).context(|| DOING),
        }
        let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, limit).context(|| DOING)? == 0 {
            let why = format!("{DOING}: it does not answer within {} s", LIMIT.as_secs());
            return Err(Error::new(ErrorKind::Unavailable, why));
        }
        let mut answer = [0; 16];
        match recv(number, &mut answer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET) => Err(gone(DOING)),
            Ok(length) if answer.get(..length) == Some(DONE) => Ok(()),
            Ok(_) => Err(Error::internal(format!("{DOING}: it answers nonsense"))),
            Err(why) => Err(why).context(|| DOING),
        }
    }
}

fn gone(doing: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{doing}: it is gone"))
}
