//! The pod: its containers, their processes, and in which order things may happen to them.
//!
//! Everything here is told in the runtimes' types; containerd's messages stay in [`crate::service`],
//! but for the events, which are containerd's own vocabulary for what happens to a pod.

mod container;
mod pause;
mod process;
mod sandbox_config;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use containerd_shim_protos::events::task::{TaskCreate, TaskDelete, TaskIO};
use containerd_shim_protos::types::mount::Mount as MountMessage;
use oci_spec::runtime::Spec;
use tokio::sync::{Notify, OnceCell};
use trefoil_core::{
    ContainerConfig, ContainerRecord, Error, ErrorKind, ExitStatus, Provider, Result, Runtime,
    RuntimeOptions, Sandbox,
};
use trefoil_os::lock;

pub use container::Container;
use pause::Pause;
pub use process::Status;

use crate::dispatch;
use crate::record::Record;
use crate::runtimes;
use crate::service::events::Publisher;
use crate::stdio::{self, Streams};

/// A pod and what serves it.
pub struct Pod {
    id: String,
    namespace: String,
    provider: &'static dyn Provider,
    runtime: Arc<dyn Runtime>,
    events: Publisher,
    record: Record,
    sandbox: OnceCell<Arc<dyn Sandbox>>,
    /// `None` while a container of that name is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Whether containerd has asked for the end. It may ask while containers are left, and never again.
    ending: AtomicBool,
    over: Notify,
    /// Notified when a container has been made, or could not be.
    made: Notify,
    /// Notified when something has changed.
    changes: Arc<Notify>,
}

/// A container as containerd asks for it.
pub struct CreateRequest {
    /// Its name.
    pub id: String,
    /// Its directory.
    pub bundle: String,
    /// The mounts of its root, as they came.
    pub rootfs: Vec<MountMessage>,
    /// Where its init's streams go.
    pub streams: Streams,
    /// The handler's options.
    pub options: RuntimeOptions,
}

impl Pod {
    /// A pod without containers yet.
    pub fn new(
        id: &str,
        namespace: &str,
        (provider, runtime): (&'static dyn Provider, Arc<dyn Runtime>),
        events: Publisher,
        record: Record,
    ) -> Self {
        Self {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            provider,
            runtime,
            events,
            record,
            sandbox: OnceCell::new(),
            containers: Mutex::default(),
            ending: AtomicBool::new(false),
            over: Notify::new(),
            made: Notify::new(),
            changes: Arc::default(),
        }
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

    /// Ends the pod's server as soon as nothing is left for it to serve. containerd also asks for it when it
    /// could not make a later container of the pod, whose others live on, and may be joined by more.
    pub fn shut_down(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.end_if_idle();
    }

    fn end_if_idle(&self) {
        if self.ending.load(Ordering::Relaxed) && self.containers().is_empty() {
            self.over.notify_one();
        }
    }

    /// Makes a container. When this fails nothing of it is left.
    pub async fn create(&self, request: CreateRequest) -> Result<Arc<Container>> {
        let id = request.id.clone();
        self.reserve(&id)?;
        let outcome = self.create_reserved(request).await;
        match &outcome {
            Ok(container) => self
                .containers()
                .insert(id.clone(), Some(container.clone())),
            Err(_) => self.containers().remove(&id),
        };
        self.made.notify_waiters();
        if outcome.is_err() {
            self.end_if_idle();
        }
        outcome
    }

    async fn create_reserved(&self, request: CreateRequest) -> Result<Arc<Container>> {
        let CreateRequest {
            id,
            bundle,
            rootfs,
            streams,
            options,
        } = request;
        let path = std::path::PathBuf::from(&bundle);
        let spec = runtimes::load_spec(&path.join("config.json"))
            .map_err(|why| why.context(format!("create container {id}")))?;
        let annotations = spec.annotations().iter().flatten();
        dispatch::check_container(self.provider.isolation(), annotations)
            .map_err(|why| Error::from(why).context(format!("create container {id}")))?;
        let spec = Arc::new(spec);
        self.record
            .begin(&id, container_record(&path, &spec, &options))?;

        let sandbox = self.sandbox(&path, &spec).await?;
        let stdio = stdio::open(&streams, &self.namespace, &id).await?;
        let created = match Pause::stand_in(&id, &spec, sandbox) {
            Some(pause) => Ok(pause),
            None => {
                let config = ContainerConfig {
                    id: id.clone(),
                    bundle: path.clone(),
                    spec,
                    rootfs: rootfs.iter().map(mount).collect(),
                    stdio,
                    options,
                };
                sandbox.create_container(config).await
            }
        };
        let created = match created {
            Ok(created) => created,
            Err(why) => {
                self.record.end(&id)?;
                return Err(why);
            }
        };
        let pid = created.init().pid();
        if let Err(why) = self.record.created(&id, pid) {
            // Without a record a later cleaning would be blind: give up now, while we can see.
            let _ = created.init().kill(libc::SIGKILL).await;
            created.init().wait().await;
            created.delete().await?;
            return Err(why);
        }
        self.events.publish(TaskCreate {
            container_id: id.clone(),
            bundle,
            rootfs,
            io: Some(TaskIO {
                stdin: streams.stdin.clone(),
                stdout: streams.stdout.clone(),
                stderr: streams.stderr.clone(),
                terminal: streams.terminal,
                ..Default::default()
            })
            .into(),
            pid,
            ..Default::default()
        });
        Ok(Container::new(
            &id,
            path,
            streams,
            created,
            self.events.clone(),
        ))
    }

    /// The pod's sandbox, made with the first container.
    async fn sandbox(&self, bundle: &Path, spec: &Spec) -> Result<&Arc<dyn Sandbox>> {
        self.sandbox
            .get_or_try_init(|| async {
                let config = sandbox_config::of(&self.id, &self.namespace, bundle, spec)?;
                let record = self.provider.sandbox_record(&config)?;
                let record = record.map(|record| (self.provider.isolation(), record));
                self.record.sandbox(record)?;
                let sandbox = match self.runtime.create_sandbox(config).await {
                    Ok(sandbox) => sandbox,
                    Err(why) => {
                        self.record.sandbox(None)?;
                        return Err(why);
                    }
                };
                tokio::spawn(watch_sandbox(self.id.clone(), sandbox.clone()));
                Ok(sandbox)
            })
            .await
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("create container {id}: there is one of that name"),
            ));
        }
        containers.insert(id.to_owned(), None);
        Ok(())
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
            exited_at: Some(crate::service::timestamp(status.at)).into(),
            ..Default::default()
        });
        if self.containers().is_empty() {
            self.end().await?;
        }
        self.end_if_idle();
        Ok((pid, status))
    }

    /// Ends the pod's sandbox, if there is one. May be called again.
    pub async fn end(&self) -> Result<()> {
        let Some(sandbox) = self.sandbox.get() else {
            return Ok(());
        };
        sandbox.delete().await?;
        self.record.sandbox(None)
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        lock(&self.containers)
    }
}

/// Says why a sandbox has ended by itself: its containers end with it, and their ends don't tell.
async fn watch_sandbox(pod: String, sandbox: Arc<dyn Sandbox>) {
    let reason = sandbox.ended().await;
    log::error!("pod {pod} has ended by itself: {reason}");
}

/// What the container's cleaner must know.
fn container_record(bundle: &Path, spec: &Spec, options: &RuntimeOptions) -> ContainerRecord {
    let cgroups_path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone());
    ContainerRecord {
        bundle: bundle.to_owned(),
        cgroups_path,
        systemd_cgroup: options.systemd_cgroup,
        pid: None,
    }
}

fn mount(message: &MountMessage) -> trefoil_core::Mount {
    trefoil_core::Mount {
        kind: message.type_.clone(),
        source: message.source.clone(),
        target: message.target.clone(),
        options: message.options.clone(),
    }
}
