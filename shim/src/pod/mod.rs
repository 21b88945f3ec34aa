//! The pod: its containers, their processes, and in which order things may happen to them.
//!
//! Everything here is told in the runtimes' types; containerd's messages stay in [`crate::service`],
//! but for the events, which are containerd's own vocabulary for what happens to a pod.

mod container;
mod create;
pub(crate) mod files;
mod managed;
mod pause;
mod process;
mod sandbox_config;
mod sandbox_request;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use containerd_shim_protos::events::task::TaskDelete;
use tokio::sync::{Notify, OnceCell};
use trefoil_core::{Error, ExitStatus, Isolation, Result, Sandbox};
use trefoil_os::lock;

pub use container::Container;
pub use create::CreateRequest;
use managed::Managed;
pub use managed::SandboxState;
pub use process::Status;
pub use sandbox_request::SandboxRequest;

use crate::candidates::{Candidates, Chosen};
use crate::dispatch::Annotations;
use crate::events::{Publisher, timestamp};
use crate::record::Record;

/// How long a server waits to be asked for something: much longer than the slowest containerd takes to ask.
pub const FIRST_REQUEST: Duration = Duration::from_secs(120);

/// A pod and what serves it.
pub struct Pod {
    id: String,
    namespace: String,
    /// Until the runtime has been chosen.
    candidates: Mutex<Option<Candidates>>,
    chosen: OnceLock<Chosen>,
    events: Publisher,
    record: Record,
    sandbox: OnceCell<Arc<dyn Sandbox>>,
    /// The sandbox as containerd's Sandbox API has created it; otherwise its life is that of the containers.
    managed: OnceLock<Managed>,
    /// Held while the sandbox changes by a request.
    changing: tokio::sync::Mutex<()>,
    /// `None` while a container of that name is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Whether containerd has asked for the end. It may ask while containers are left, and never again.
    ending: AtomicBool,
    over: Notify,
    /// Notified when something is asked to be made.
    begun: Notify,
    /// Notified when a container has been made, or could not be.
    made: Notify,
    /// Notified when something has changed.
    changes: Arc<Notify>,
}

impl Pod {
    /// A pod without containers yet.
    pub fn new(
        id: &str,
        namespace: &str,
        chosen: Option<Chosen>,
        events: Publisher,
        record: Record,
    ) -> Self {
        Self {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            candidates: Mutex::default(),
            chosen: chosen.map_or_else(OnceLock::new, OnceLock::from),
            events,
            record,
            sandbox: OnceCell::new(),
            managed: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
            ending: AtomicBool::new(false),
            over: Notify::new(),
            begun: Notify::new(),
            made: Notify::new(),
            changes: Arc::default(),
        }
    }

    /// A pod among these runtimes: where the choice is open, it is made when the sandbox is created.
    ///
    /// # Errors
    /// If the runtime that was chosen can't be had.
    pub fn among(
        id: &str,
        namespace: &str,
        candidates: Candidates,
        events: Publisher,
        record: Record,
    ) -> Result<Self> {
        let (chosen, candidates) = match candidates.is_open() {
            true => (None, Some(candidates)),
            false => (Some(candidates.choose(&Annotations::new())?), None),
        };
        let mut pod = Self::new(id, namespace, chosen, events, record);
        pod.candidates = Mutex::new(candidates);
        Ok(pod)
    }

    /// The containerd namespace that it is in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its isolation, once that is decided.
    pub fn isolation(&self) -> Option<Isolation> {
        self.chosen.get().map(|chosen| chosen.provider.isolation())
    }

    fn chosen(&self) -> Result<&Chosen> {
        self.chosen.get().ok_or_else(|| {
            Error::precondition(format!("the sandbox {} has not been created", self.id))
        })
    }

    /// What is notified when a container or process has been made, started or deleted. Mere questions, which
    /// containerd asks every second, are no change.
    pub fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    /// Resolves when the pod has been shut down.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// Resolves when nobody has asked for a container or the sandbox in [`FIRST_REQUEST`]. containerd asks as
    /// soon as it knows where the server listens; if it dies before it has written that down, its successor
    /// does not know of the server.
    pub async fn forgotten(&self) {
        let begun = tokio::time::timeout(FIRST_REQUEST, self.begun.notified());
        if begun.await.is_ok() {
            std::future::pending().await
        }
    }

    /// Ends the pod's server as soon as nothing is left for it to serve. containerd also asks for it when it
    /// could not make a later container of the pod, whose others live on, and may be joined by more. A
    /// sandbox of containerd's Sandbox API is served until it is shut down itself, by its own name.
    ///
    /// # Errors
    /// If what is left of such a sandbox can't be removed.
    pub async fn shut_down(&self, id: &str) -> Result<()> {
        if self.managed.get().is_some() {
            return match id == self.id {
                true => self.shut_down_sandbox(id).await,
                false => Ok(()),
            };
        }
        self.ending.store(true, Ordering::Relaxed);
        self.end_if_idle();
        Ok(())
    }

    fn end_if_idle(&self) {
        if self.ending.load(Ordering::Relaxed) && self.containers().is_empty() {
            self.over.notify_one();
        }
    }

    /// The container of that name. One that is being made is waited for: a containerd that died meanwhile
    /// asks for it when it is back, and forgets for good what it is told not to be there.
    pub async fn container(&self, id: &str) -> Result<Arc<Container>> {
        loop {
            let made = self.made.notified();
            match self.containers().get(id).cloned() {
                Some(Some(container)) => return Ok(container),
                Some(None) => {}
                None => return Err(Error::not_found(format!("there is no container {id}"))),
            }
            made.await;
        }
    }

    /// The container of that name, if it has been made.
    pub fn container_made(&self, id: &str) -> Option<Arc<Container>> {
        self.containers().get(id).cloned().flatten()
    }

    /// Resolves when no container is being made.
    async fn none_in_making(&self) {
        loop {
            let made = self.made.notified();
            if self.containers().values().all(Option::is_some) {
                return;
            }
            made.await;
        }
    }

    /// All containers that have been made.
    fn made(&self) -> Vec<Arc<Container>> {
        self.containers().values().flatten().cloned().collect()
    }

    /// Removes a container whose init has ended or was never started. Returns its pid and how it ended.
    pub async fn delete(&self, id: &str) -> Result<(u32, ExitStatus)> {
        let container = self.container(id).await?;
        let (pid, status) = container.delete().await?;
        self.record.end(id)?;
        self.containers().remove(id);
        self.events.publish(TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: status.code,
            exited_at: Some(timestamp(status.at)).into(),
            ..Default::default()
        });
        if self.managed.get().is_none() && self.containers().is_empty() {
            self.end().await?;
        }
        self.end_if_idle();
        Ok((pid, status))
    }

    /// Ends the pod's sandbox, if there is one. May be called again.
    pub async fn end(&self) -> Result<()> {
        let Some(sandbox) = self.sandbox.get() else {
            return self.remove_files();
        };
        sandbox.delete().await?;
        self.remove_files()?;
        self.record.sandbox(None)
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        lock(&self.containers)
    }
}
