//! A pod's guest: its machine and its agent, together.

pub(crate) mod agent;
pub(crate) mod clock;
pub(crate) mod forward;
pub(crate) mod oom_kills;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use trefoil_agent_protocol::service::Nothing;
use trefoil_core::{Error, ErrorKind, Result};
use trefoil_files::parent::Server;

use crate::machine::Machine;
use agent::{Agent, waiting};

/// How long a machine may take to end by itself once its agent is gone, to say why.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a guest may take to write back what is in its memory and power off.
const POWERING_OFF: Duration = Duration::from_secs(2);

/// How long a killed VMM may take to be gone. It takes longer only where a disk hangs.
const DYING: Duration = Duration::from_secs(5);

/// How long what SIGKILL was sent to may take to end, before what waits for a filesystem of the host's that
/// hangs is let go.
const WAITING: Duration = Duration::from_secs(2);

/// How long it may take to tell the file server.
const TELLING: Duration = Duration::from_millis(500);

/// How long it may take to end at all.
pub(crate) const KILLED: Duration = Duration::from_secs(5);

/// A guest that runs.
pub(crate) struct Guest {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Its agent.
    pub agent: Agent,
    /// What serves it the host's files, if anything does.
    files: Option<Arc<Server>>,
    /// For how many of those that were killed nobody waits for a filesystem that hangs.
    hurried: Mutex<u32>,
    streams: AtomicU32,
    /// Whether it has been asked to end.
    stopping: AtomicBool,
}

impl Guest {
    /// A guest whose machine ends with its agent. Must be called within the event loop.
    pub fn new(machine: Arc<Machine>, agent: Agent, files: Option<Arc<Server>>) -> Arc<Self> {
        let guest = Arc::new(Self {
            machine,
            agent,
            files,
            hurried: Mutex::default(),
            streams: AtomicU32::new(1),
            stopping: AtomicBool::new(false),
        });
        let watched = guest.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watched.agent.gone() => {}
                _ = watched.machine.ended() => return,
            }
            let silent = tokio::time::timeout(LAST_WORDS, watched.machine.ended())
                .await
                .is_err();
            // One that was asked to end has let go of the connection first.
            if silent && !watched.stopping.load(Ordering::Relaxed) {
                watched.machine.kill("the guest's agent is gone");
            }
        });
        guest
    }

    /// A number that no stream has had.
    pub fn next_stream(&self) -> u32 {
        // Zero, which is no stream, comes after four billion.
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Resolves, with the reason, when the guest has ended without being asked to.
    pub async fn ended(&self) -> String {
        let reason = self.machine.ended().await;
        if self.stopping.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        reason
    }

    /// Ends the machine, unless `ended` resolves in time: the end of `what`, to which SIGKILL has been sent.
    /// A guest that does not hear, or only says that it does, runs on otherwise for as long as it likes.
    pub async fn insist(&self, what: &str, ended: impl Future<Output = ()>) {
        if !self.let_go(ended).await {
            self.machine
                .kill(&format!("{what} did not end within {KILLED:?} of SIGKILL"));
        }
    }

    /// Waits for the end of what SIGKILL was sent to, and says whether it came in time. The guest's kernel
    /// waits for what a process has asked of the file server even where that process was killed: so
    /// after a while nobody in the pod waits for a filesystem that hangs, but gets EIO.
    pub async fn let_go(&self, ended: impl Future<Output = ()>) -> bool {
        let begun = tokio::time::Instant::now();
        tokio::pin!(ended);
        if tokio::time::timeout(WAITING, &mut ended).await.is_ok() {
            return true;
        }
        // The file server may be stuck itself.
        let _ = tokio::time::timeout(TELLING, self.hurry(true)).await;
        let in_time = tokio::time::timeout_at(begun + KILLED, ended).await.is_ok();
        let _ = tokio::time::timeout(TELLING, self.hurry(false)).await;
        in_time
    }

    /// One more, or one less, for whom nobody waits for a filesystem that hangs.
    async fn hurry(&self, on: bool) {
        let Some(files) = &self.files else {
            return;
        };
        let mut hurried = self.hurried.lock().await;
        let before = *hurried;
        *hurried = match on {
            true => before.saturating_add(1),
            false => before.saturating_sub(1),
        };
        if (before == 0) != (*hurried == 0)
            && let Err(why) = files.hurry(on).await
        {
            log::warn!("{why}");
        }
    }

    /// Ends the guest: in order if it does so in time. Every process in it has ended then.
    ///
    /// # Errors
    /// If its process survives being killed.
    pub async fn stop(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        let nothing = Nothing::default();
        let in_order = async {
            tokio::select! {
                // The answer is the end of the connection.
                _ = self.agent.client.power_off(waiting(), &nothing) => self.machine.ended().await,
                end = self.machine.ended() => end,
            }
        };
        if tokio::time::timeout(POWERING_OFF, in_order).await.is_ok() {
            return Ok(());
        }
        self.machine.kill("it did not power off in time");
        match tokio::time::timeout(DYING, self.machine.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "end the machine: its process {} survives SIGKILL",
                    self.machine.pid()
                ),
            )),
        }
    }
}
