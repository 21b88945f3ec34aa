//! What the parent wants shared, and what no more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::message::{Change, DONE, MOST_BYTES};

/// Our end of the parent's second socket.
pub struct Changes(OwnedFd);

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Changes {
    /// Over this socket, for packets.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Has the next change made, if there is one. `false` once the parent is gone. What is handed out then
    /// is closed after the parent was told: it may hang.
    pub fn make(
        &self,
        make: impl FnOnce(Change) -> io::Result<Vec<Arc<OwnedFd>>>,
    ) -> io::Result<bool> {
        let mut room = [0; MOST_BYTES];
        let length = match recv(self.0.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
            Err(Errno::ECONNRESET) => return Ok(false),
            Err(why) => return Err(why.into()),
        };
        let text = room.get(..length).unwrap_or_default();
        let _last = make(serde_json::from_slice(text)?)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.0.as_raw_fd(), DONE, flags) {
            Ok(_) => Ok(true),
            Err(Errno::EPIPE) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }
}
