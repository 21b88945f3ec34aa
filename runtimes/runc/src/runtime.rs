//! The runtime and its sandbox: for namespaces there is little to either, as the pod's namespaces belong
//! to its first container.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, ContainerConfig, Error, Result, Runtime, Sandbox, SandboxConfig, Stdio,
};

use crate::container::RuncContainer;
use crate::gate::Gate;
use crate::launcher::{Create, Launcher, Request};
use crate::process::{Ends, RuncProcess, Streams};
use crate::state;

/// The namespace runtime.
pub struct Runc {
    launcher: Arc<Launcher>,
    plumb: Plumb,
}

/// How an init gets its streams.
type Plumb = fn(Stdio) -> io::Result<(Streams, Ends)>;

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
        Self {
            launcher,
            plumb: Streams::direct,
        }
    }

    /// Gives inits pipes to write to, and relays them: for outputs that a program can't open again by
    /// `/dev/stdout`, as sockets are.
    #[must_use]
    pub fn relaying_output(mut self) -> Self {
        self.plumb = Streams::piped;
        self
    }
}

#[async_trait]
impl Runtime for Runc {
    async fn create_sandbox(&self, _: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(RuncSandbox {
            launcher: self.launcher.clone(),
            plumb: self.plumb,
        }))
    }
}

struct RuncSandbox {
    launcher: Arc<Launcher>,
    plumb: Plumb,
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
        let create = |terminal, streams| {
            Request::Create(Create {
                id: id.clone(),
                bundle: bundle.clone(),
                rootfs,
                options: options.clone(),
                terminal,
                streams,
            })
        };
        let (init, mut given) =
            RuncProcess::launch(&self.launcher, stdio, self.plumb, &[], create).await?;
        let gate = given
            .pop()
            .ok_or_else(|| Error::internal(format!("create container {id}: its init has no gate")))
            .and_then(Gate::new)?;
        Ok(Arc::new(RuncContainer::new(
            id,
            bundle,
            &spec,
            options,
            cgroup,
            (init, gate),
            self.launcher.clone(),
        )))
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    async fn stats(&self) -> Result<Option<Stats>> {
        Ok(None)
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        Ok(())
    }
}
