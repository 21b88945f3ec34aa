//! A process in the guest.
//!
//! Its signals are the guest's to deliver, and its end the guest's to tell. What must happen whatever the
//! guest does about either is here: an init that SIGKILL was sent to ends within seconds, with the machine
//! if it must be; an exec'd process ends with its container's init.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use trefoil_agent_protocol::service::{ProcessRequest, ResizeRequest, SignalRequest};
use trefoil_core::{Error, ErrorKind, ExitStatus, Process, Result, TerminalSize};

use crate::container::streams::Streams;
use crate::guest::Guest;
use crate::guest::agent::{answer, asking, signalling, waiting};

/// How long the machine's end may be behind its agent's.
const BEHIND: Duration = Duration::from_secs(1);

/// How long the end of an exec'd process may be behind that of its container's init.
const OUTLIVING: Duration = Duration::from_secs(3);

/// How long a guest may hold the streams of an ended process open. Together with what removing a container
/// takes it is less than the ten seconds that containerd's CRI gives for that.
const DRAINING: Duration = Duration::from_secs(4);

/// The exit code of a process whose own nobody can tell.
const UNKNOWN: u32 = 255;

/// A process that the agent has made.
pub(crate) struct GuestProcess {
    guest: Arc<Guest>,
    request: ProcessRequest,
    terminal: bool,
    streams: Arc<Streams>,
    ended: Ended,
    /// Whether its end is waited for already, as it has been sent SIGKILL.
    killed: AtomicBool,
}

/// How a process has ended, once it has.
type Ended = watch::Receiver<Option<ExitStatus>>;

/// Which process it is.
pub(crate) struct Named<'a> {
    /// Its container.
    pub container: &'a str,
    /// Its name there, which an init has none of.
    pub process: &'a str,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Its container's init, if it is not that itself.
    pub init: Option<&'a GuestProcess>,
}

impl GuestProcess {
    /// Watches a process. Must be called within the event loop.
    pub fn new(guest: &Arc<Guest>, named: &Named<'_>, streams: Streams) -> Self {
        let request = ProcessRequest {
            container: named.container.to_owned(),
            process: named.process.to_owned(),
            ..Default::default()
        };
        let streams = Arc::new(streams);
        let (sender, ended) = watch::channel(None);
        let (its_guest, its_request, its_streams) =
            (guest.clone(), request.clone(), streams.clone());
        let init = named.init.map(|init| init.ended.clone());
        tokio::spawn(async move {
            let status = tokio::select! {
                biased;
                status = end(&its_guest, &its_request) => status,
                () = outlived(init) => ExitStatus::killed_by(libc::SIGKILL),
            };
            its_streams.end_input();
            sender.send_replace(Some(status));
        });
        Self {
            guest: guest.clone(),
            request,
            terminal: named.terminal,
            streams,
            ended,
            killed: AtomicBool::new(false),
        }
    }

    /// Resolves when it has ended.
    pub async fn ended(&self) {
        over(self.ended.clone()).await;
    }

    /// Sees to it that an init which was sent SIGKILL ends, with the machine if it must be, and that an
    /// exec'd process which was does not wait for a filesystem that hangs.
    pub fn insist(&self) {
        if self.killed.swap(true, Ordering::Relaxed) {
            return;
        }
        let init = self.is_init();
        let what = format!("the init of container {}", self.request.container);
        let (guest, ended) = (self.guest.clone(), self.ended.clone());
        tokio::spawn(async move {
            match init {
                true => guest.insist(&what, over(ended)).await,
                false => drop(guest.let_go(over(ended)).await),
            }
        });
    }

    /// What to say of a signal to an init that the guest does not take, or does not say to have taken. Who
    /// ends a container gives up at an error, but waits for the end otherwise, sends SIGKILL, and that does
    /// without the guest.
    pub async fn signalled(&self, outcome: impl Future<Output = Result<()>>) -> Result<()> {
        let outcome = tokio::select! {
            biased;
            () = self.ended() => return Ok(()),
            outcome = outcome => outcome,
        };
        match outcome {
            Err(why) if why.kind() != ErrorKind::NotFound => {
                log::warn!("{why}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn is_init(&self) -> bool {
        self.request.process.is_empty()
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

async fn over(mut ended: Ended) {
    // The task that waits for the end never ends without a status.
    let _ = ended.wait_for(Option::is_some).await;
}

/// Resolves when a process's end is overdue, as that of the init is some time ago.
async fn outlived(init: Option<Ended>) {
    let Some(init) = init else {
        return std::future::pending().await;
    };
    over(init).await;
    tokio::time::sleep(OUTLIVING).await;
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
        // As large as exit codes are.
        Ok(ended) => ExitStatus::now(ended.code.min(UNKNOWN)),
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
    /// The machine's: what number it has in the guest is another process's on the host.
    fn pid(&self) -> u32 {
        self.guest.machine.pid()
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
        let sent = async {
            answer(
                doing,
                self.guest.agent.client.signal(signalling(), &request),
            )
            .await
            .map(drop)
        };
        if signal == libc::SIGKILL {
            self.insist();
        }
        match self.is_init() {
            true => self.signalled(sent).await,
            false => sent.await,
        }
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
        let _ = tokio::time::timeout(DRAINING, self.streams.drain()).await;
    }

    async fn close_stdio(&self) {
        self.streams.close();
    }
}
