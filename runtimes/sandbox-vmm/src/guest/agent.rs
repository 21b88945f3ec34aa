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
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_os::watched;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

/// How long the agent may take to make something: a container, or a process in one.
const MAKING: Duration = Duration::from_secs(60);

/// How long it may take to delete something. containerd's CRI gives the shim ten seconds for it, of which
/// others are for streams.
const DELETING: Duration = Duration::from_secs(5);

/// How long it may take for anything else.
const ASKING: Duration = Duration::from_secs(8);

/// How long it may take to send a signal. Whoever ends a container then waits for the end, not for us.
const SIGNALLING: Duration = Duration::from_secs(2);

/// How long it may take to tell what a container uses. containerd gives that two seconds, and CRI asks for
/// one container after the other.
const MEASURING: Duration = Duration::from_millis(1500);

/// How much of what a guest says of a failure is passed on, in bytes.
const LONGEST_WHY: usize = 1024;

/// An agent that serves.
pub(crate) struct Agent {
    /// Its requests; how long each may take, [`asking`] and its neighbours say.
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

/// For one that deletes something.
pub(crate) fn deleting() -> context::Context {
    context::with_duration(DELETING)
}

/// For one that sends a signal.
pub(crate) fn signalling() -> context::Context {
    context::with_duration(SIGNALLING)
}

/// For one that tells figures.
pub(crate) fn measuring() -> context::Context {
    context::with_duration(MEASURING)
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
            other => brief(status::from_answer(other)),
        };
        why.context(doing())
    })
}

/// The same failure in words that don't fill containerd's log.
fn brief(why: Error) -> Error {
    let words = why.to_string();
    if words.len() <= LONGEST_WHY {
        return why;
    }
    let end = (0..=LONGEST_WHY)
        .rev()
        .find(|end| words.is_char_boundary(*end))
        .unwrap_or_default();
    Error::new(why.kind(), format!("{}…", &words[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_has_much_to_say_is_cut_short() {
        let short = Error::not_found("no such container");
        assert_eq!(brief(short.clone()), short);
        let long = brief(Error::invalid("é".repeat(4 << 20)));
        assert_eq!(long.kind(), ErrorKind::InvalidArgument);
        assert_eq!(long.to_string(), format!("{}…", "é".repeat(512)));
    }
}
