//! The three things that are done with a connected stream, none of which waits or raises a signal.
//! Only these calls are needed, whatever flags the descriptor came with.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::Shutdown;

/// The most buffers one call takes.
pub const MAX_BUFFERS: usize = 1024;

/// What came of a call.
#[derive(Debug)]
pub enum Moved {
    /// So many bytes were moved. Receiving none is the end.
    Bytes(usize),
    /// Not now.
    Later,
    /// Never again.
    Gone,
}

/// Buffers for one call, kept so that nothing is allocated for each.
#[derive(Debug, Default)]
pub struct Vectors(Vec<libc::iovec>);

// SAFETY: addresses; whoever uses them says why they are good.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds `buffers` without their first `skip` bytes, up to `most` bytes; says how many those are.
    pub fn add(&mut self, buffers: &[libc::iovec], mut skip: usize, most: usize) -> usize {
        let mut added = 0;
        for buffer in buffers {
            if skip >= buffer.iov_len {
                skip -= buffer.iov_len;
                continue;
            }
            let length = (buffer.iov_len - skip).min(most - added);
            if length == 0 {
                break;
            }
            self.0.push(libc::iovec {
                // SAFETY: this is still inside the buffer.
                iov_base: unsafe { buffer.iov_base.cast::<u8>().add(skip) }.cast(),
                iov_len: length,
            });
            skip = 0;
            added += length;
        }
        added
    }

    fn header(&mut self) -> libc::msghdr {
        // SAFETY: all zero is a value of it: no name, no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.0.as_mut_ptr();
        header.msg_iovlen = self.0.len().min(MAX_BUFFERS);
        header
    }

    /// Sends what the buffers hold, as far as there is room.
    ///
    /// # Safety
    ///
    /// The buffers can be read.
    pub unsafe fn send(&mut self, socket: BorrowedFd<'_>) -> Moved {
        let header = self.header();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the header points to our list, and by the caller's word its buffers can be read.
        moved(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) })
    }

    /// Receives what there is into the buffers.
    ///
    /// # Safety
    ///
    /// The buffers can be written, and nobody relies on what they hold.
    pub unsafe fn receive(&mut self, socket: BorrowedFd<'_>) -> Moved {
        let mut header = self.header();
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the header points to our list, and by the caller's word its buffers can be written.
        moved(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) })
    }
}

fn moved(result: isize) -> Moved {
    match usize::try_from(result) {
        Ok(count) => Moved::Bytes(count),
        Err(_) => {
            let why = Error::last_os_error();
            // All buffers are the guest's memory, or our own.
            debug_assert_ne!(why.raw_os_error(), Some(libc::EFAULT));
            match why.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Moved::Later,
                _ => Moved::Gone,
            }
        }
    }
}

/// Whether the other side still receives: sending nothing fails where sending anything would.
pub fn is_heard(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: there is nothing to be read.
    !matches!(unsafe { Vectors::default().send(socket) }, Moved::Gone)
}

/// Ends one direction.
pub fn shutdown(socket: BorrowedFd<'_>, direction: Shutdown) {
    // It fails only where the other side has gone, which we are told.
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), direction);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_side_is_heard_until_it_has_gone_or_is_deaf() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        assert!(is_heard(ours.as_fd()));
        theirs.shutdown(std::net::Shutdown::Write).expect("shut");
        assert!(is_heard(ours.as_fd()));
        theirs.shutdown(std::net::Shutdown::Read).expect("shut");
        assert!(!is_heard(ours.as_fd()));
        let (ours, theirs) = UnixStream::pair().expect("pair");
        drop(theirs);
        assert!(!is_heard(ours.as_fd()));
    }

    #[test]
    fn buffers_are_cut_at_both_ends() {
        let mut bytes = *b"0123456789";
        let mut buffers = Vec::new();
        for part in bytes.chunks_mut(4) {
            buffers.push(libc::iovec {
                iov_base: part.as_mut_ptr().cast(),
                iov_len: part.len(),
            });
        }
        let mut vectors = Vectors::default();
        assert_eq!(vectors.add(&buffers, 5, 4), 4);
        assert_eq!(vectors.add(&buffers, 10, 4), 0);
        assert_eq!(vectors.add(&buffers, 0, 0), 0);
        let lengths: Vec<usize> = vectors.0.iter().map(|buffer| buffer.iov_len).collect();
        assert_eq!(lengths, [3, 1]);
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        // SAFETY: the bytes are still there.
        let sent = unsafe { vectors.send(ours.as_fd()) };
        assert!(matches!(sent, Moved::Bytes(4)), "{sent:?}");
        let mut got = [0; 4];
        std::io::Read::read_exact(&mut theirs, &mut got).expect("read");
        assert_eq!(&got, b"5678");
    }
}
