//! Making a container, from the server's side: its init is launched, and comes with the gate that it waits at.

use std::io;
use std::sync::Arc;

use trefoil_core::{ContainerConfig, Error, Result, Stdio};

use crate::container::RuncContainer;
use crate::gate::Gate;
use crate::launcher::{Create, Launcher, Request};
use crate::process::{Ends, RuncProcess, Streams};
use crate::state;

/// How an init gets its streams.
pub(crate) type Plumb = fn(Stdio) -> io::Result<(Streams, Ends)>;

/// What makes containers.
pub(crate) struct Maker {
    pub launcher: Arc<Launcher>,
    pub plumb: Plumb,
}

impl Maker {
    /// Makes a container whose init waits to be started; `holder` if it is that of a pod's namespaces.
    pub(crate) async fn make(
        &self,
        config: ContainerConfig,
        holder: bool,
    ) -> Result<RuncContainer> {
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
                holder,
            })
        };
        let (init, mut given) =
            RuncProcess::launch(&self.launcher, stdio, self.plumb, &[], create).await?;
        let gate = given
            .pop()
            .ok_or_else(|| Error::internal(format!("create container {id}: its init has no gate")))
            .and_then(Gate::new)?;
        Ok(RuncContainer::new(
            id,
            bundle,
            &spec,
            options,
            cgroup,
            (init, gate),
            self.launcher.clone(),
        ))
    }
}
