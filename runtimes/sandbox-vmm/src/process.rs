//! A process in the guest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use trefoil_agent_protocol::service::{ProcessRequest, ResizeRequest, SignalRequest};
use trefoil_core::{Error, ErrorKind, ExitStatus, Process, Result, TerminalSize};

use crate::agent::{answer, asking, waiting};
use crate::guest::Guest;
use crate::streams::Streams;

/// How long the machine's end may be behind its agent's.
const BEHIND: Duration = Duration::from_secs(1);

/// The exit code of a process whose own nobody can tell.
const UNKNOWN: u32 = 255;

/// A process that the agent has made.
pub(crate) struct GuestProcess {
    guest: Arc<Guest>,
    request: ProcessRequest,
    pid: u32,
    terminal: bool,
    streams: Arc<Streams>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl GuestProcess {
    /// Watches a process of `container`, its init if `name` is empty. Must be called within the event
    /// loop.
    pub fn new(
        guest: &Arc<Guest>,
        container: &str,
        name: &str,
        pid: u32,
        terminal: bool,
        streams: Streams,
    ) -> Self {
        let request = ProcessRequest {
            container: container.to_owned(),
            process: name.to_owned(),
            ..Default::default()
        };
        let streams = Arc::new(streams);
        let (sender, ended) = watch::channel(None);
        let (its_guest, its_request, its_streams) =
            (guest.clone(), request.clone(), streams.clone());
        tokio::spawn(async move {
            let status = end(&its_guest, &its_request).await;
            its_streams.end_input();
            sender.send_replace(Some(status));
        });
        Self {
            guest: guest.clone(),
            request,
            pid,
            terminal,
            streams,
            ended,
        }
    }

    fn doing(&self, what: &str) -> String {
        let ProcessRequest {
            container, process, ..
        } = &self.request;
        match process.as_str() {
            "" => format!("{what} the init of container {container}"),
            process => format!("{what} process {process} of container {container}"),
        }
    }
}

/// Waits for a process's end: its own, or the machine's, of which it is told as a death by SIGKILL.
async fn end(guest: &Guest, request: &ProcessRequest) -> ExitStatus {
    let wait = answer(
        || {
            format!(
                "wait for process {:?} of {}",
                request.process, request.container
            )
        },
        guest.agent.client.wait(waiting(), request),
    );
    let outcome = tokio::select! {
        biased;
        outcome = wait => outcome,
        _ = guest.machine.ended() => return ExitStatus::killed_by(libc::SIGKILL),
    };
    match outcome {
        Ok(ended) => ExitStatus::now(ended.code),
        // The connection has ended, and with it the machine does, if it hasn't yet.
        Err(why) if why.kind() == ErrorKind::Unavailable => {
            if tokio::time::timeout(BEHIND, guest.machine.ended())
                .await
                .is_err()
            {
                guest.machine.kill("the guest's agent is gone");
            }
            ExitStatus::killed_by(libc::SIGKILL)
        }
        Err(why) => {
            log::error!("{why}");
            ExitStatus::now(UNKNOWN)
        }
    }
}

#[async_trait]
impl Process for GuestProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The task that waits for the end never ends without a status.
            _ => ExitStatus::now(UNKNOWN),
        }
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    async fn kill(&self, signal: i32) -> Result<()> {
        if self.exit_status().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        let request = SignalRequest {
            container: self.request.container.clone(),
            process: self.request.process.clone(),
            signal: signal.unsigned_abs(),
            ..Default::default()
        };
        let doing = || self.doing(&format!("send signal {signal} to"));
        answer(doing, self.guest.agent.client.signal(asking(), &request))
            .await
            .map(drop)
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        if !self.terminal {
            return Ok(());
        }
        let request = ResizeRequest {
            container: self.request.container.clone(),
            process: self.request.process.clone(),
            width: size.width.into(),
            height: size.height.into(),
            ..Default::default()
        };
        let doing = || self.doing("resize the terminal of");
        answer(doing, self.guest.agent.client.resize(asking(), &request))
            .await
            .map(drop)
    }

    async fn close_stdin(&self) {
        self.streams.close_input();
    }

    async fn drain(&self) {
        self.streams.drain().await;
    }

    async fn close_stdio(&self) {
        self.streams.close();
    }
}
