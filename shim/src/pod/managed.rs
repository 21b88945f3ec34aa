//! The pod's sandbox as containerd's Sandbox API manages it: created, started, stopped and shut down by
//! requests of its own, whatever containers it has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use trefoil_core::stats::Stats;
use trefoil_core::{Error, ErrorKind, ExitStatus, Result, Sandbox, SandboxConfig};

use super::Pod;
use super::container::gone_is_fine;
use super::files::{self, PodFiles};
use super::sandbox_request::SandboxRequest;
use crate::dispatch::{self, Annotations};

/// How long a container that is being made may keep a sandbox from having stopped: it may wait for a file
/// system that does not answer.
const MAKING: Duration = Duration::from_secs(10);

/// A sandbox that has been created.
pub(super) struct Managed {
    config: SandboxConfig,
    pub(super) files: PodFiles,
    /// Since when it runs.
    started: OnceLock<SystemTime>,
    /// Whether its end has been asked for.
    stopping: AtomicBool,
    ended: watch::Sender<Option<ExitStatus>>,
}

/// In which state a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// It has been created.
    Created,
    /// It has been started: containers can be made.
    Running,
    /// It has ended.
    Stopped,
}

/// What is told of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Its state.
    pub state: SandboxState,
    /// The process that holds it, while it runs; else 0.
    pub pid: u32,
    /// Since when it runs, if it has been started.
    pub started: Option<SystemTime>,
    /// How it ended, if it has.
    pub ended: Option<ExitStatus>,
}

impl Managed {
    fn state(&self) -> SandboxState {
        match (self.ended.borrow().is_some(), self.started.get()) {
            (true, _) => SandboxState::Stopped,
            (false, Some(_)) => SandboxState::Running,
            (false, None) => SandboxState::Created,
        }
    }

    /// Notes the end, unless it has been noted.
    fn end(&self, status: ExitStatus) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(status);
            first
        });
    }
}

impl Pod {
    /// Creates the sandbox: decides what it is to be, and makes what of it is no process.
    ///
    /// # Errors
    /// What the pod asks for and can't have.
    pub async fn create_sandbox(
        &self,
        request: SandboxRequest,
        annotations: Annotations,
    ) -> Result<()> {
        let doing = || format!("create sandbox {}", request.id);
        let _alone = self.changing.lock().await;
        self.check_sandbox_id(&request.id)?;
        if self.managed.get().is_some() {
            let why = Error::new(ErrorKind::AlreadyExists, "it has been created");
            return Err(why.context(doing()));
        }
        self.begun.notify_one();
        let config = request.config().map_err(|why| why.context(doing()))?;
        let candidates = trefoil_os::lock(&self.candidates).take();
        let chosen = match (candidates, self.chosen.get()) {
            (Some(candidates), _) => {
                let chosen = candidates.choose(&annotations);
                let chosen = chosen.map_err(|why| why.context(doing()))?;
                self.chosen.get_or_init(|| chosen)
            }
            (None, Some(chosen)) => chosen,
            (None, None) => {
                return Err(Error::precondition("it has been refused").context(doing()));
            }
        };
        dispatch::check_container(chosen.provider.isolation(), &annotations)
            .map_err(|why| Error::from(why).context(doing()))?;
        self.note(chosen.provider, &config)?;
        let files =
            PodFiles::make(&config.bundle, &request.pod).map_err(|why| why.context(doing()))?;
        let _ = self.managed.set(Managed {
            config,
            files,
            started: OnceLock::new(),
            stopping: AtomicBool::new(false),
            ended: watch::Sender::new(None),
        });
        Ok(())
    }

    /// Starts the sandbox. Returns the process that holds it, and since when it runs.
    ///
    /// # Errors
    /// If it can't be made, or is in another state.
    pub async fn start_sandbox(self: &Arc<Self>, id: &str) -> Result<SandboxStatus> {
        let _alone = self.changing.lock().await;
        let managed = self.managed(id)?;
        if managed.state() != SandboxState::Created {
            return Err(Error::precondition(format!(
                "start sandbox {id}: it has been started"
            )));
        }
        let chosen = self.chosen()?;
        let make = || chosen.runtime.create_sandbox(managed.config.clone());
        let sandbox = self.sandbox.get_or_try_init(make).await?;
        let _ = managed.started.set(SystemTime::now());
        tokio::spawn(watch(self.clone(), sandbox.clone()));
        Ok(self.status_of(managed))
    }

    /// What there is to tell of the sandbox.
    ///
    /// # Errors
    /// If there is none.
    pub fn sandbox_status(&self, id: &str) -> Result<SandboxStatus> {
        Ok(self.status_of(self.managed(id)?))
    }

    fn status_of(&self, managed: &Managed) -> SandboxStatus {
        let state = managed.state();
        let pid = self.sandbox.get().and_then(|sandbox| sandbox.pid());
        SandboxStatus {
            state,
            pid: pid.filter(|_| state == SandboxState::Running).unwrap_or(0),
            started: managed.started.get().copied(),
            ended: *managed.ended.borrow(),
        }
    }

    /// Resolves when the sandbox has ended.
    ///
    /// # Errors
    /// If there is none.
    pub async fn wait_sandbox(&self, id: &str) -> Result<ExitStatus> {
        let mut ended = self.managed(id)?.ended.subscribe();
        let status = ended.wait_for(Option::is_some).await;
        match status.map(|status| *status) {
            Ok(Some(status)) => Ok(status),
            _ => Err(Error::internal(format!(
                "wait for sandbox {id}: it is gone"
            ))),
        }
    }

    /// Asks whatever makes the sandbox's containers for an answer.
    ///
    /// # Errors
    /// If it does not run or does not answer.
    pub async fn ping_sandbox(&self, id: &str) -> Result<()> {
        self.running(id)?.ping().await
    }

    /// What the pod uses.
    ///
    /// # Errors
    /// If it does not run or can't be measured.
    pub async fn measure_sandbox(&self, id: &str) -> Result<Stats> {
        let stats = self.running(id)?.stats().await?;
        stats.ok_or_else(|| {
            let why = format!("measure sandbox {id}: only its containers are measured");
            Error::new(ErrorKind::Unimplemented, why)
        })
    }

    /// Ends the sandbox and all processes of its containers. May be called again.
    ///
    /// # Errors
    /// If there is none, or something of it does not end.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let _alone = self.changing.lock().await;
        let managed = self.managed(id)?;
        self.stop(managed).await
    }

    async fn stop(&self, managed: &Managed) -> Result<()> {
        managed.stopping.store(true, Ordering::Relaxed);
        for container in self.made() {
            container
                .kill("", libc::SIGKILL, true)
                .await
                .or_else(gone_is_fine)?;
        }
        if let Some(sandbox) = self.sandbox.get() {
            sandbox.stop().await?;
        }
        // What is being made is removed by its own request, which finds the sandbox stopping.
        if tokio::time::timeout(MAKING, self.none_in_making())
            .await
            .is_err()
        {
            log::warn!("stop sandbox {}: a container is still being made", self.id);
        }
        managed.end(ExitStatus::now(0));
        Ok(())
    }

    /// Ends the sandbox, removes all that is left of it and its containers, and has the server end. May be
    /// called again.
    ///
    /// # Errors
    /// If it is another's, or something can't be removed; the server ends all the same.
    pub async fn shut_down_sandbox(&self, id: &str) -> Result<()> {
        let _alone = self.changing.lock().await;
        self.check_sandbox_id(id)?;
        let removed = self.remove_sandbox().await;
        self.over.notify_one();
        removed
    }

    async fn remove_sandbox(&self) -> Result<()> {
        let stopped = match self.managed.get() {
            Some(managed) => self.stop(managed).await,
            None => Ok(()),
        };
        let mut outcome = stopped;
        for container in self.made() {
            outcome = outcome.and(self.delete(&container.id).await.map(drop));
        }
        outcome.and(self.end().await)
    }

    /// Removes what a managed sandbox has beside its processes.
    pub(super) fn remove_files(&self) -> Result<()> {
        match self.managed.get() {
            Some(managed) => files::clean_up(&managed.config.bundle).map(drop),
            None => Ok(()),
        }
    }

    fn check_sandbox_id(&self, id: &str) -> Result<()> {
        match id == self.id {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "there is no sandbox {id}: this is the shim of {}",
                self.id
            ))),
        }
    }

    fn managed(&self, id: &str) -> Result<&Managed> {
        self.check_sandbox_id(id)?;
        self.managed
            .get()
            .ok_or_else(|| Error::not_found(format!("sandbox {id} has not been created")))
    }

    /// The sandbox, while it runs.
    pub(super) fn running(&self, id: &str) -> Result<&Arc<dyn Sandbox>> {
        let managed = self.managed(id)?;
        let stopping = managed.stopping.load(Ordering::Relaxed);
        let is = match (managed.state(), self.sandbox.get()) {
            (SandboxState::Stopped, _) => "has ended",
            (SandboxState::Running, Some(_)) if stopping => "is being stopped",
            (SandboxState::Running, Some(sandbox)) => return Ok(sandbox),
            (SandboxState::Running | SandboxState::Created, _) => "has not been started",
        };
        Err(Error::precondition(format!("sandbox {id} {is}")))
    }
}

/// Notes the end of a sandbox that nobody has asked for.
async fn watch(pod: Arc<Pod>, sandbox: Arc<dyn Sandbox>) {
    let reason = sandbox.ended().await;
    let Some(managed) = pod.managed.get() else {
        return;
    };
    if !managed.stopping.load(Ordering::Relaxed) {
        log::error!("pod {} has ended by itself: {reason}", pod.id);
        managed.end(ExitStatus::killed_by(libc::SIGKILL));
    }
}
