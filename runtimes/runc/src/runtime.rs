//! The runtime and its sandbox: for namespaces there is little to either, as the pod's namespaces belong
//! to its first container.

use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::child::Child;
use trefoil_core::{
    Container, ContainerConfig, Context, Isolation, Result, Runtime, Sandbox, SandboxConfig,
};

use crate::container::RuncContainer;
use crate::launcher::{Create, Launcher, Request};
use crate::process::{RuncProcess, Streams};
use crate::state;

/// The namespace runtime.
pub struct Runc {
    launcher: Arc<Launcher>,
}

impl Runc {
    /// A runtime that has its containers made by `launcher`. Must be called within the event loop.
    pub fn new(launcher: Launcher) -> Self {
        let launcher = Arc::new(launcher);
        let reaper = launcher.clone();
        tokio::spawn(async move {
            if let Err(why) = reaper.reap().await {
                log::error!("watch for ended helpers: {why}");
            }
        });
        Self { launcher }
    }
}

#[async_trait]
impl Runtime for Runc {
    fn isolation(&self) -> Isolation {
        Isolation::Namespace
    }

    async fn create_sandbox(&self, _: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(RuncSandbox {
            launcher: self.launcher.clone(),
        }))
    }
}

struct RuncSandbox {
    launcher: Arc<Launcher>,
}

#[async_trait]
impl Sandbox for RuncSandbox {
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>> {
        let ContainerConfig {
            id,
            bundle,
            spec,
            rootfs,
            stdio,
            options,
        } = config;
        let cgroup = state::cgroup(&id, &spec, options.systemd_cgroup)?;
        let given = [
            stdio.stdin.as_ref().map(|input| input.read.as_fd()),
            stdio.stdout.as_ref().map(|output| output.write.as_fd()),
            stdio.stderr.as_ref().map(|output| output.write.as_fd()),
        ];
        // A terminal's streams stay here: the terminal is relayed to them.
        let given = if stdio.terminal { [None; 3] } else { given };
        let request = Request::Create(Create {
            id: id.clone(),
            bundle: bundle.clone(),
            rootfs,
            options: options.clone(),
            terminal: stdio.terminal,
            streams: given.map(|stream| stream.is_some()),
        });
        let given: Vec<_> = given.into_iter().flatten().collect();
        let (answer, master) = self.launcher.call(&request, &given).await?;
        let doing = || format!("watch the init of container {id}");
        let child = Child::new(answer.pid).context(doing)?;
        let streams = match master {
            Some(master) => Streams::terminal(master, stdio).context(doing)?,
            None => Streams::direct(stdio),
        };
        Ok(Arc::new(RuncContainer::new(
            id,
            bundle,
            &spec,
            options,
            cgroup,
            RuncProcess::new(child, streams),
            self.launcher.clone(),
        )))
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }
}
