//! What the parent wants shared, and what no more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::message::{Change, DONE, MOST_BYTES};
use crate::passthrough::Passthrough;

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

    /// Makes the next change, if there is one. `false` once the parent is gone.
    pub fn make(&self, files: &mut Passthrough) -> io::Result<bool> {
        let mut room = [0; MOST_BYTES];
        let length = match recv(self.0.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
            Err(Errno::ECONNRESET) => return Ok(false),
            Err(why) => return Err(why.into()),
        };
        let text = room.get(..length).unwrap_or_default();
        match serde_json::from_slice(text)? {
            Change::Add(name, shown) => files.add(&name, shown),
            Change::Remove(name) => files.remove(&name),
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.0.as_raw_fd(), DONE, flags) {
            Ok(_) => Ok(true),
            Err(Errno::EPIPE) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }
}
