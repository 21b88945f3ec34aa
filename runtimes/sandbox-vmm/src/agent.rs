//! The agent's client: its first line, then requests over ttrpc.
//!
//! The agent may be slow, dead, or somebody else by now. So every request but those that wait for
//! something to happen has a time limit, and all fail at once when the connection ends.

use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trefoil_agent_protocol::service::AgentClient;
use trefoil_agent_protocol::{Ready, Request, status};
use trefoil_core::{Context, Error, ErrorKind, Result, watched};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

/// How long the agent may take to make something: a container, or a process in one.
const MAKING: Duration = Duration::from_secs(60);

/// How long it may take for anything else.
const ASKING: Duration = Duration::from_secs(20);

/// An agent that serves.
pub(crate) struct Agent {
    /// Its requests; see [`Agent::ask`].
    pub client: AgentClient,
    /// The connection once more, to see its end.
    connection: AsyncFd<std::os::fd::OwnedFd>,
}

impl Agent {
    /// Hears an agent's first line and asks it to serve.
    ///
    /// # Errors
    /// If it says something else, or the connection ends.
    pub async fn greet(stream: UnixStream) -> Result<(Self, Ready)> {
        let doing = || "talk to the guest's agent";
        let connection = stream.as_fd().try_clone_to_owned().context(doing)?;
        let connection = watched::readable(connection).context(doing)?;
        let mut stream = tokio::net::UnixStream::from_std(stream).context(doing)?;
        let line = first_line(&mut stream).await?;
        let ready = line
            .parse()
            .context(|| format!("understand the guest's agent, which says {line:?}"))?;
        let serve = format!("{}\n", Request::Serve);
        stream.write_all(serve.as_bytes()).await.context(doing)?;
        let agent = Self {
            client: AgentClient::new(Client::new(Socket::new(stream))),
            connection,
        };
        Ok((agent, ready))
    }

    /// Resolves when the connection has ended.
    pub async fn gone(&self) {
        while let Ok(mut ready) = self.connection.readable().await {
            if ready.ready().is_read_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
}

async fn first_line(stream: &mut tokio::net::UnixStream) -> Result<String> {
    let mut line = Vec::with_capacity(Ready::LONGEST);
    // It says one line and then listens: there is nothing to read too much of.
    while line.last() != Some(&b'\n') && line.len() < Ready::LONGEST {
        let count = stream
            .read_buf(&mut line)
            .await
            .context(|| "hear the guest's agent")?;
        if count == 0 {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "hear the guest's agent: it has hung up",
            ));
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// For a request that makes something.
pub(crate) fn making() -> context::Context {
    context::with_duration(MAKING)
}

/// For one that is answered at once.
pub(crate) fn asking() -> context::Context {
    context::with_duration(ASKING)
}

/// For one that is answered when something happens.
pub(crate) fn waiting() -> context::Context {
    context::Context::default()
}

/// Waits for the answer to a request, and says what was being `doing` if it is a failure. A time limit
/// that has passed is [`ErrorKind::Unavailable`], as is a connection that has ended.
pub(crate) async fn answer<T, D: std::fmt::Display>(
    doing: impl FnOnce() -> D,
    request: impl Future<Output = ttrpc::Result<T>>,
) -> Result<T> {
    request.await.map_err(|why| {
        let why = match why {
            ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::DEADLINE_EXCEEDED => {
                Error::new(
                    ErrorKind::Unavailable,
                    "the guest's agent did not answer in time",
                )
            }
            other => status::from_answer(other),
        };
        why.context(doing())
    })
}
