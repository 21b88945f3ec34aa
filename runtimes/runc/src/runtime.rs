//! The runtime and its sandbox: for namespaces there is little to either, as the pod's namespaces belong
//! to its first container, or to the sandbox's holder.

use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, ContainerConfig, Result, Runtime, Sandbox, SandboxConfig, SandboxKind,
};

use crate::holder::Holder;
use crate::launcher::{Launcher, Request};
use crate::maker::{Maker, Plumb};
use crate::process::Streams;

/// The namespace runtime.
#[derive(Debug)]
pub struct Runc {
    launcher: Arc<Launcher>,
    plumb: Plumb,
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
    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        let maker = Maker {
            launcher: self.launcher.clone(),
            plumb: self.plumb,
        };
        let holder = match config.kind {
            SandboxKind::Sandbox => Some(Holder::start(&config, &maker).await?),
            SandboxKind::Pod | SandboxKind::SingleContainer => None,
        };
        Ok(Arc::new(RuncSandbox { maker, holder }))
    }
}

struct RuncSandbox {
    maker: Maker,
    /// The process that holds the pod's namespaces, where no container of the pod's own does.
    holder: Option<Holder>,
}

#[async_trait]
impl Sandbox for RuncSandbox {
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>> {
        Ok(Arc::new(self.maker.make(config, false).await?))
    }

    fn pid(&self) -> Option<u32> {
        self.holder.as_ref().map(Holder::pid)
    }

    async fn ping(&self) -> Result<()> {
        if let Some(holder) = &self.holder {
            holder.check()?;
        }
        self.maker
            .launcher
            .call(&Request::Ping, &[])
            .await
            .map(drop)
    }

    async fn stats(&self) -> Result<Option<Stats>> {
        self.holder.as_ref().map(Holder::stats).transpose()
    }

    async fn ended(&self) -> String {
        match &self.holder {
            Some(holder) => holder.ended().await,
            None => std::future::pending().await,
        }
    }

    async fn stop(&self) -> Result<()> {
        match &self.holder {
            Some(holder) => holder.stop().await,
            None => Ok(()),
        }
    }

    async fn delete(&self) -> Result<()> {
        match &self.holder {
            Some(holder) => holder.delete().await,
            None => Ok(()),
        }
    }
}
