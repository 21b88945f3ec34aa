//! The connection to the host once it speaks ttrpc.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::sync::oneshot;
use trefoil_os::watched;

/// Both ways of it; and whoever wants to hears of its end.
pub(crate) struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// Dropped when the host sends no more.
    open: Option<oneshot::Sender<()>>,
}

impl Connection {
    /// Takes over a socket. The other one resolves at its end. Must be called within the event loop.
    ///
    /// # Errors
    /// What making the socket non-blocking or watching it fails with.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let (open, ended) = oneshot::channel();
        let connection = Self {
            socket: watched::watched(socket, Interest::READABLE | Interest::WRITABLE)?,
            open: Some(open),
        };
        Ok((connection, ended))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = loop {
            let mut guard = ready!(self.socket.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            let read = guard.try_io(|socket| Ok(nix::unistd::read(socket.get_ref(), space)?));
            if let Ok(outcome) = read {
                break outcome;
            }
        };
        match outcome {
            Ok(count @ 1..) => {
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            end => {
                self.open = None;
                Poll::Ready(end.map(drop))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_write_ready(context))?;
            let written = guard.try_io(|socket| Ok(nix::unistd::write(socket.get_ref(), bytes)?));
            if let Ok(outcome) = written {
                return Poll::Ready(outcome);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of the connection is the end of the guest: there is no half of it to close.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_goes_both_ways_and_its_end_is_heard_of() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        theirs.set_nonblocking(true).expect("nonblocking");
        let mut host = tokio::net::UnixStream::from_std(theirs).expect("watch");
        let (mut connection, mut ended) = Connection::new(ours.into()).expect("connection");
        host.write_all(b"asked").await.expect("write");
        let mut got = [0; 5];
        connection.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"asked");

        let big = vec![7; 1 << 20];
        let mut received = vec![0; big.len()];
        let (sent, heard) =
            tokio::join!(connection.write_all(&big), host.read_exact(&mut received));
        sent.expect("write");
        heard.expect("read");
        assert_eq!(received, big);

        assert!(
            ended
                .try_recv()
                .is_err_and(|why| why == oneshot::error::TryRecvError::Empty)
        );
        drop(host);
        assert_eq!(connection.read(&mut [0]).await.expect("end"), 0);
        ended.await.expect_err("nothing is said, it ends");
    }
}
