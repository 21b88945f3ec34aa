//! Connections of the host's to the pod's TCP ports: each names a port, and is then relayed to it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Shutdown as Half, shutdown};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use trefoil_agent_protocol::FORWARD_PORT;
use trefoil_core::{Context, Error, Result};
use trefoil_os::relay::{self, Stream};

use crate::vsock::{Port, read_exactly};

/// How long a connection may take to name its port.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many there may be at a time.
const MOST: usize = 1024;

/// What the host is answered.
const CONNECTED: u8 = 0;
const REFUSED: u8 = 1;
const DENIED: u8 = 2;

/// Takes the host's connections from now on, to the ports that `may` says nothing against. Must be called
/// within the event loop.
///
/// # Errors
/// What listening fails with.
pub(crate) fn serve(may: impl Fn(u16) -> Result<()> + Send + Sync + 'static) -> Result<()> {
    let doing = || format!("listen on vsock port {FORWARD_PORT}");
    let port = Port::listen(FORWARD_PORT).context(doing)?;
    let room = Arc::new(Semaphore::new(MOST));
    let may = Arc::new(may);
    tokio::spawn(port.serve(move |host| {
        let Ok(permit) = room.clone().try_acquire_owned() else {
            return;
        };
        let may = may.clone();
        tokio::spawn(async move {
            if let Err(why) = forward(host, &*may).await {
                log::debug!("forward a connection: {why}");
            }
            drop(permit);
        });
    }));
    Ok(())
}

/// Serves one connection.
async fn forward(host: OwnedFd, may: &impl Fn(u16) -> Result<()>) -> io::Result<()> {
    let (host, port) = timeout(PATIENCE, read_exactly(host)).await??;
    let port = u16::from_le_bytes(port);
    // Nothing has been written yet: there is room for one byte.
    let answer = |answer| nix::unistd::write(&host, &[answer]);
    if let Err(why) = may(port) {
        answer(DENIED)?;
        return Err(denied(&why));
    }
    let connection = match dial(port).await {
        Ok(connection) => connection,
        Err(why) => {
            answer(REFUSED)?;
            return Err(why);
        }
    };
    answer(CONNECTED)?;
    let there = Stream::new(OwnedFd::from(connection.into_std()?))?;
    relay_both(&Stream::new(host)?, &there).await
}

fn denied(why: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_string())
}

/// Connects to whoever listens on a port of the pod's own.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let to = |address| TcpStream::connect(SocketAddr::new(address, port));
    match to(Ipv4Addr::LOCALHOST.into()).await {
        Ok(connection) => Ok(connection),
        Err(_) => to(Ipv6Addr::LOCALHOST.into()).await,
    }
}

/// Carries bytes both ways until both have ended; each end is passed on by itself. Where one way fails,
/// the other is given up too.
async fn relay_both(host: &Stream, there: &Stream) -> io::Result<()> {
    let one_way = async |from: &Stream, to: &Stream| {
        relay::copy(from, to).await?;
        // Whoever has closed it altogether needs not be told.
        let _ = shutdown(to.as_fd().as_raw_fd(), Half::Write);
        Ok(())
    };
    tokio::try_join!(one_way(host, there), one_way(there, host)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("nonblocking");
        (ours.into(), theirs)
    }

    /// A guest that believes its host.
    fn any(_: u16) -> Result<()> {
        Ok(())
    }

    fn answer(address: &str) -> u16 {
        let listener = TcpListener::bind(address).expect("bind");
        let port = listener.local_addr().expect("address").port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut text = Vec::new();
            // Its end comes while the way back is open still.
            stream.read_to_end(&mut text).expect("read");
            text.reverse();
            stream.write_all(&text).expect("write");
        });
        port
    }

    #[tokio::test]
    async fn both_ways_end_by_themselves() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let port = answer(address);
            let (agents, mut host) = pair();
            let peer = thread::spawn(move || {
                host.write_all(&port.to_le_bytes()).expect("port");
                let mut answered = [9];
                host.read_exact(&mut answered).expect("answer");
                let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
                host.write_all(&sent).expect("write");
                host.shutdown(Shutdown::Write).expect("shutdown");
                let mut got = Vec::new();
                host.read_to_end(&mut got).expect("read");
                got.reverse();
                (answered, got == sent)
            });
            forward(agents, &any).await.expect("forward");
            assert_eq!(peer.join().expect("peer"), ([CONNECTED], true));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_refused() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            listener.local_addr().expect("address").port()
        };
        let (agents, mut host) = pair();
        host.write_all(&port.to_le_bytes()).expect("port");
        forward(agents, &any).await.expect_err("refused");
        let mut got = Vec::new();
        host.read_to_end(&mut got).expect("read");
        assert_eq!(got, [REFUSED]);
    }

    #[tokio::test]
    async fn what_may_not_be_is_denied_before_anybody_is_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let port = listener.local_addr().expect("address").port();
        let (agents, mut host) = pair();
        host.write_all(&port.to_le_bytes()).expect("port");
        let may = |asked: u16| -> Result<()> { Err(Error::precondition(format!("not {asked}"))) };
        let why = forward(agents, &may).await.expect_err("denied");
        assert_eq!(why.to_string(), format!("not {port}"));
        let mut got = Vec::new();
        host.read_to_end(&mut got).expect("read");
        assert_eq!(got, [DENIED]);
        let why = listener.accept().expect_err("nobody came");
        assert_eq!(why.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_names_no_port_is_closed() {
        let (agents, mut host) = pair();
        host.write_all(&[1]).expect("half a port");
        forward(agents, &any).await.expect_err("too late");
        assert_eq!(host.read(&mut [0]).expect("read"), 0);
    }
}
