//! Making a container of the pod, and with its first one the sandbox, unless that is managed.

use std::path::Path;
use std::sync::Arc;

use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::types::mount::Mount as MountMessage;
use oci_spec::runtime::Spec;
use trefoil_core::{
    ContainerConfig, ContainerRecord, Error, ErrorKind, Provider, Result, RuntimeOptions, Sandbox,
    SandboxConfig,
};

use super::container::mount;
use super::pause::Pause;
use super::{Container, Pod, sandbox_config};
use crate::candidates::Chosen;
use crate::dispatch;
use crate::stdio::{self, Streams};

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
        if let Some(managed) = self.managed.get() {
            self.running(&self.id)?;
            managed.files.add_to(&path)?;
        }
        let spec = trefoil_spec::load(&path.join("config.json"))
            .map_err(|why| Error::from(why).context(format!("create container {id}")))?;
        let chosen = self.chosen()?;
        let annotations = spec.annotations().iter().flatten();
        dispatch::check_container(chosen.provider.isolation(), annotations)
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
        self.keep(&id, &*created)
            .await
            .map_err(|why| why.context(format!("create container {id}")))?;
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

    /// Keeps a container that has been made, or removes it: where that can't be written down, a later cleaning
    /// would be blind, and a managed sandbox may have ended meanwhile.
    async fn keep(&self, id: &str, created: &dyn trefoil_core::Container) -> Result<()> {
        let noted = self.record.created(id, created.init().pid());
        let ended = || match self.managed.get() {
            Some(_) => self.running(&self.id).map(drop),
            None => Ok(()),
        };
        let Err(why) = noted.and_then(|()| ended()) else {
            return Ok(());
        };
        let _ = created.init().kill(libc::SIGKILL).await;
        created.init().wait().await;
        created.delete().await?;
        self.record.end(id)?;
        Err(why)
    }

    /// The pod's sandbox: the one that has been started, or made with the first container.
    async fn sandbox(&self, bundle: &Path, spec: &Spec) -> Result<&Arc<dyn Sandbox>> {
        if self.managed.get().is_some() {
            return self.running(&self.id);
        }
        let Chosen { provider, runtime } = self.chosen()?;
        self.sandbox
            .get_or_try_init(|| async {
                let config = sandbox_config::of(&self.id, &self.namespace, bundle, spec)?;
                self.note(*provider, &config)?;
                let sandbox = match runtime.create_sandbox(config).await {
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

    /// Notes how to clean up after a sandbox that is about to be made.
    pub(super) fn note(&self, provider: &dyn Provider, config: &SandboxConfig) -> Result<()> {
        let record = provider.sandbox_record(config)?;
        let record = record.map(|record| (provider.isolation(), record));
        self.record.sandbox(record)
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
        self.begun.notify_one();
        Ok(())
    }
}

/// Says why a sandbox has ended by itself: its containers end with it, and their ends don't tell.
async fn watch_sandbox(pod: String, sandbox: Arc<dyn Sandbox>) {
    let reason = sandbox.ended().await;
    log::error!("pod {pod} has ended by itself: {reason}");
}

/// What the container's cleaner must know.
fn container_record(bundle: &Path, spec: &Spec, options: &RuntimeOptions) -> ContainerRecord {
    ContainerRecord {
        bundle: bundle.to_owned(),
        cgroups_path: trefoil_spec::cgroups_path(spec).map(Path::to_path_buf),
        systemd_cgroup: options.systemd_cgroup,
        pid: None,
    }
}
