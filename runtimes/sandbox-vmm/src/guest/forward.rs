//! Port forwarding: who dials localhost in the pod's network namespace reaches the guest's.

use std::fs::File;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trefoil_agent_protocol::FORWARD_PORT;
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_network::forward::{self, Listener};
use trefoil_os::relay::{self, Stream};

use crate::machine::Machine;

/// How long the agent may take to dial.
const DIALLING: Duration = Duration::from_secs(10);

/// What the agent answers when it is connected, and when the pod's policy has it dial no such port.
const CONNECTED: u8 = 0;
const DENIED: u8 = 2;

/// How long to wait when the shim has no descriptors left for a connection.
const CROWDED: Duration = Duration::from_millis(100);

/// Forwards as long as it is kept.
#[derive(Debug)]
pub(crate) struct Forwarding {
    task: JoinHandle<()>,
}

impl Forwarding {
    /// Forwards what is dialled on localhost in this namespace. Must be called within the event loop.
    ///
    /// # Errors
    /// If there is no such namespace, or the kernel lacks what this takes.
    pub fn start(netns: &Path, machine: &Arc<Machine>) -> Result<Self> {
        let doing = || format!("forward ports of {}", netns.display());
        let namespace = File::open(netns).context(doing)?;
        let Listener { socket, steering } = forward::listen(namespace.as_fd()).context(doing)?;
        let socket = tokio::net::TcpListener::from_std(socket).context(doing)?;
        let machine = machine.clone();
        let task = tokio::spawn(async move {
            // Connections come here for as long as this is open.
            let _steering = steering;
            loop {
                match socket.accept().await {
                    Ok((connection, _)) => {
                        tokio::spawn(serve(machine.clone(), connection));
                    }
                    Err(why) => {
                        log::warn!("take a connection to the pod's localhost: {why}");
                        tokio::time::sleep(CROWDED).await;
                    }
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(machine: Arc<Machine>, connection: tokio::net::TcpStream) {
    let outcome = async {
        let port = connection.local_addr().map(|address| address.port());
        let port = port.context(|| "tell which port was dialled")?;
        let connection = connection.into_std().context(|| "forward a connection")?;
        match dial(&machine, port).await {
            Ok(guest) => join(connection, guest).await,
            Err(why) => {
                forward::refuse(connection);
                Err(why)
            }
        }
    };
    if let Err(why) = outcome.await {
        log::debug!("{why}");
    }
}

/// Has the agent dial a port in the guest.
async fn dial(machine: &Machine, port: u16) -> Result<UnixStream> {
    let doing = || format!("dial port {port} in the guest");
    let mut stream = machine.connect(FORWARD_PORT).await?;
    std::io::Write::write_all(&mut stream, &port.to_le_bytes()).context(doing)?;
    let mut stream = tokio::net::UnixStream::from_std(stream).context(doing)?;
    let answer = timeout(DIALLING, stream.read_u8()).await.context(doing)?;
    check(answer.context(doing)?).map_err(|why| why.context(doing()))?;
    stream.into_std().context(doing)
}

/// Whether the agent's answer is that it is connected.
fn check(answer: u8) -> Result<()> {
    match answer {
        CONNECTED => Ok(()),
        DENIED => Err(Error::precondition(
            "the pod's policy denies it: the port is not in knobs.port_forward",
        )),
        _ => Err(Error::new(ErrorKind::Unavailable, "nobody listens")),
    }
}

/// Carries what each side sends to the other, until both have ended.
async fn join(host: TcpStream, guest: UnixStream) -> Result<()> {
    let doing = || "forward a connection";
    let host = Stream::new(OwnedFd::from(host)).context(doing)?;
    let guest = Stream::new(OwnedFd::from(guest)).context(doing)?;
    let one_way = async |from: &Stream, to: &Stream| {
        let outcome = relay::copy(from, to).await;
        // The other way may go on; after a failure it has nobody to talk to.
        let way = match outcome {
            Ok(_) => Shutdown::Write,
            Err(_) => Shutdown::Both,
        };
        let _ = shutdown(to.as_fd().as_raw_fd(), way);
        outcome.map(drop).context(doing)
    };
    let (there, back) = tokio::join!(one_way(&host, &guest), one_way(&guest, &host));
    there.and(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_why_there_is_no_connection() {
        check(CONNECTED).expect("connected");
        let denied = check(DENIED).expect_err("denied");
        assert_eq!(denied.kind(), ErrorKind::FailedPrecondition);
        assert!(denied.to_string().contains("knobs.port_forward"));
        let refused = check(1).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
    }
}
