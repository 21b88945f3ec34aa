//! The agent that decides the system calls which a profile puts to it (`SCMP_ACT_NOTIFY`).
//!
//! It listens on a socket of the host's, at `listenerPath`. The runtime gives it the filter's
//! descriptor and a description of the process ("The Container Process State" of the runtime
//! specification's config-linux.md), once, and never speaks to it again.

use std::io::{IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use trefoil_os::message::{self, Wait};

use super::super::error::{Doing, Failure};
use super::{asks_an_agent, profile};

/// How long an agent may leave its socket full. It should wait in accept and read.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixStream,
    metadata: Option<String>,
    version: String,
}

impl Listener {
    /// Connects to the agent that the profile names, if it asks one. To be called on the host,
    /// before any process is made.
    pub(crate) fn connect(spec: &Spec) -> Result<Option<Self>, Failure> {
        let Some(profile) = profile(spec) else {
            return Ok(None);
        };
        let path = profile.listener_path().as_ref();
        if path.is_none() && profile.listener_metadata().is_some() {
            return Err(Failure::new(
                "the seccomp profile has a listenerMetadata and no listenerPath",
            ));
        }
        if !asks_an_agent(profile) {
            return Ok(None);
        }
        let path = path.ok_or_else(|| {
            Failure::new("the seccomp profile uses SCMP_ACT_NOTIFY and has no listenerPath")
        })?;
        let doing = || format!("connect to the seccomp agent at {}", path.display());
        let socket = UnixStream::connect(path).doing(doing)?;
        socket.set_write_timeout(Some(PATIENCE)).doing(doing)?;
        Ok(Some(Self {
            socket,
            metadata: profile.listener_metadata().clone(),
            version: spec.version().clone(),
        }))
    }

    /// Gives the agent the filter's descriptor, which [`super::Filter::load`] returned. `pid` is
    /// the bound process's id on the host, and `state` the container's state as hooks get it.
    ///
    /// The bound process may stand still until the agent has it.
    pub(crate) fn send(
        &self,
        filter: BorrowedFd<'_>,
        pid: i32,
        state: &str,
    ) -> Result<(), Failure> {
        let message = self.message(pid, state)?;
        let bytes = message.as_bytes();
        let sent = message::send(&self.socket, &[IoSlice::new(bytes)], &[filter], Wait::Yes)
            .doing(|| "give the seccomp agent its listener")?;
        // A long state may not fit in one go.
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        (&self.socket)
            .write_all(rest)
            .doing(|| "give the seccomp agent the container's state")
    }

    fn message(&self, pid: i32, state: &str) -> Result<String, Failure> {
        let state: Value = serde_json::from_str(state)
            .map_err(|error| Failure::new(format!("the container's state is not JSON: {error}")))?;
        let mut message = json!({
            "ociVersion": self.version,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": state,
        });
        if let (Some(metadata), Some(fields)) = (&self.metadata, message.as_object_mut()) {
            fields.insert("metadata".to_owned(), Value::from(metadata.as_str()));
        }
        Ok(message.to_string())
    }
}
