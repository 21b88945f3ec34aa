//! A container made of namespaces and a cgroup.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::runtime::{LinuxResources, Spec};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use trefoil_core::stats::Stats;
use trefoil_core::{Container, Context, Error, ExecConfig, Process, Result, RuntimeOptions};

use crate::gate::Gate;
use crate::launcher::{Delete, Exec, Launcher, Poststart, Request};
use crate::process::{RuncProcess, Streams};
use trefoil_cgroups::{Cgroup, OomWatch};

/// A container, until it is deleted.
pub(crate) struct RuncContainer {
    id: String,
    bundle: PathBuf,
    cgroups_path: Option<PathBuf>,
    options: RuntimeOptions,
    owns_its_processes: bool,
    cgroup: Cgroup,
    init: Arc<RuncProcess>,
    gate: Mutex<Option<Gate>>,
    has_poststart_hooks: bool,
    memory: Option<Mutex<AsyncFd<OomWatch>>>,
    launcher: Arc<Launcher>,
}

impl RuncContainer {
    pub(crate) fn new(
        id: String,
        bundle: PathBuf,
        spec: &Spec,
        options: RuntimeOptions,
        cgroup: Cgroup,
        (init, gate): (RuncProcess, Gate),
        launcher: Arc<Launcher>,
    ) -> Self {
        let memory = cgroup
            .oom_watch()
            .map_err(|why| why.to_string())
            .and_then(|watch| {
                // SAFETY: the watch owns its descriptor, shows the same one always, and moves in here.
                unsafe { AsyncFd::register(watch) }.map_err(|why| why.to_string())
            });
        let memory = match memory {
            Ok(watch) => Some(Mutex::new(watch)),
            Err(why) => {
                log::warn!("memory kills in container {id} will not be noticed: {why}");
                None
            }
        };
        Self {
            cgroups_path: trefoil_spec::cgroups_path(spec).map(Path::to_path_buf),
            options,
            owns_its_processes: trefoil_spec::namespaces::owns_its_processes(spec),
            memory,
            id,
            bundle,
            init: Arc::new(init.of(cgroup.clone())),
            cgroup,
            gate: Mutex::new(Some(gate)),
            has_poststart_hooks: spec.hooks().as_ref().is_some_and(|hooks| {
                hooks
                    .poststart()
                    .as_ref()
                    .is_some_and(|all| !all.is_empty())
            }),
            launcher,
        }
    }
}

#[async_trait]
impl Container for RuncContainer {
    fn init(&self) -> Arc<dyn Process> {
        self.init.clone()
    }

    async fn start(&self) -> Result<()> {
        let doing = || format!("start container {}", self.id);
        let gate =
            self.gate.lock().await.take().ok_or_else(|| {
                Error::precondition("it has been started already").context(doing())
            })?;
        gate.open().await.map_err(|why| why.context(doing()))?;
        if !self.has_poststart_hooks {
            return Ok(());
        }
        let request = Request::Poststart(Poststart {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            pid: self.init.pid(),
        });
        let ran = self.launcher.call(&request, &[]).await;
        if ran.is_err() {
            // A container that its administrator's hooks reject does not run.
            let _ = self.kill_all(libc::SIGKILL).await;
        }
        ran.map(drop)
    }

    async fn exec(&self, config: ExecConfig) -> Result<Arc<dyn Process>> {
        let ExecConfig { process, stdio, .. } = config;
        let exec = |terminal, streams| {
            Request::Exec(Box::new(Exec {
                id: self.id.clone(),
                bundle: self.bundle.clone(),
                process,
                cgroups: self.cgroup.directories(),
                options: self.options.clone(),
                terminal,
                streams,
            }))
        };
        let init = [self.init.pidfd()];
        let (process, _) =
            RuncProcess::launch(&self.launcher, stdio, Streams::piped, &init, exec).await?;
        Ok(Arc::new(process))
    }

    async fn kill_all(&self, signal: i32) -> Result<()> {
        self.cgroup
            .kill_all(signal)
            .context(|| format!("send signal {signal} to all of container {}", self.id))
    }

    async fn pause(&self) -> Result<()> {
        self.cgroup
            .freeze()
            .context(|| format!("pause container {}", self.id))
    }

    async fn resume(&self) -> Result<()> {
        self.cgroup
            .thaw()
            .context(|| format!("resume container {}", self.id))
    }

    async fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.cgroup
            .update(resources)
            .context(|| format!("update container {}", self.id))
    }

    async fn stats(&self) -> Result<Stats> {
        self.cgroup
            .stats()
            .context(|| format!("read what container {} uses", self.id))
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        let pids = self
            .cgroup
            .processes()
            .context(|| format!("list the processes of container {}", self.id))?;
        Ok(pids
            .into_iter()
            .map(|pid| pid.as_raw().unsigned_abs())
            .collect())
    }

    fn owns_its_processes(&self) -> bool {
        self.owns_its_processes
    }

    async fn out_of_memory(&self) {
        let Some(memory) = &self.memory else {
            return std::future::pending().await;
        };
        let mut memory = memory.lock().await;
        loop {
            if memory.get_ref().is_gone() {
                return std::future::pending().await;
            }
            match memory.get_mut().drain() {
                Ok(0) => {}
                Ok(_) => return,
                Err(why) => {
                    log::warn!("watch the memory of container {}: {why}", self.id);
                    return std::future::pending().await;
                }
            }
            match memory.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }

    async fn delete(&self) -> Result<()> {
        let request = Request::Delete(Delete {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            cgroups_path: self.cgroups_path.clone(),
            options: self.options.clone(),
        });
        self.launcher.call(&request, &[]).await.map(drop)
    }
}
