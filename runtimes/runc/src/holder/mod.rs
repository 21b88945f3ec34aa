//! The holder of a pod's namespaces, where no container of the pod's own does: a container whose root is
//! one small program, which waits.
//!
//! containerd finds the pod's namespaces by the number of this process. It is made as any container is, and
//! so it is in the pod's cgroup, recorded on disk and removed like one.

mod network;
mod specification;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trefoil_cgroups::Cgroup;
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, ContainerConfig, Context, Error, ErrorKind, IdMappings, Mount, Process, Result,
    RuntimeOptions, SandboxConfig, SandboxKind, Stdio,
};

use crate::container::RuncContainer;
use crate::maker::Maker;
use crate::state;

/// What must be known of a holder to remove it, on disk before there is one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The pod's id.
    pod: String,
    /// The directory that containerd gave it.
    bundle: PathBuf,
    /// The holder's cgroup, as its configuration names it.
    cgroups_path: Option<PathBuf>,
}

impl Record {
    /// Of a pod that is about to be made, if it is to have a holder.
    pub(crate) fn of(config: &SandboxConfig) -> Option<Self> {
        (config.kind == SandboxKind::Sandbox).then(|| Self {
            pod: config.id.clone(),
            bundle: config.bundle.clone(),
            cgroups_path: config.cgroups_path.clone(),
        })
    }

    /// Removes the holder. Says what it removed.
    ///
    /// # Errors
    /// What could not be removed. The rest has been.
    pub(crate) fn clean_up(&self) -> Result<Vec<String>> {
        state::clean_up(&self.pod, &self.bundle, self.cgroups_path.as_deref(), false)
    }
}

/// A holder that runs.
pub(crate) struct Holder {
    pod: String,
    container: RuncContainer,
    init: Arc<dyn Process>,
    cgroup: Cgroup,
    owns_parent_cgroup: bool,
}

impl Holder {
    /// Makes the holder of a pod. When this fails nothing of it is left.
    pub(crate) async fn start(config: &SandboxConfig, maker: &Maker) -> Result<Self> {
        let doing = || format!("make the namespaces of pod {}", config.id);
        let container = make(config, maker)
            .await
            .map_err(|why| why.context(doing()))?;
        let holder = Self {
            pod: config.id.clone(),
            init: container.init(),
            container,
            cgroup: Cgroup::find(config.cgroups_path.as_deref(), &config.id, false)
                .context(doing)?,
            owns_parent_cgroup: config.owns_parent_cgroup,
        };
        if let Err(why) = holder.container.start().await {
            if let Err(why) = holder.delete().await {
                log::warn!("{why}");
            }
            return Err(why.context(doing()));
        }
        Ok(holder)
    }

    /// Its number on the node.
    pub(crate) fn pid(&self) -> u32 {
        self.init.pid()
    }

    /// Makes sure that it runs.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn check(&self) -> Result<()> {
        match self.init.exit_status() {
            None => Ok(()),
            Some(_) => Err(Error::precondition(format!(
                "the namespaces of pod {} are gone: the process that held them has ended",
                self.pod
            ))),
        }
    }

    /// Resolves, with the reason, when it has ended.
    pub(crate) async fn ended(&self) -> String {
        let status = self.init.wait().await;
        format!(
            "the process that held its namespaces ended with code {}",
            status.code
        )
    }

    /// What the whole pod uses, where the pod has a cgroup; else what the holder does.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let doing = || format!("read what pod {} uses", self.pod);
        let of_pod = match self.owns_parent_cgroup {
            true => self.cgroup.parent_stats().context(doing)?,
            false => None,
        };
        match of_pod {
            Some(stats) => Ok(stats),
            None => self.cgroup.stats().context(doing),
        }
    }

    /// Ends it. May be called again.
    pub(crate) async fn stop(&self) -> Result<()> {
        match self.init.kill(libc::SIGKILL).await {
            Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        self.init.wait().await;
        Ok(())
    }

    /// Ends it and removes what is left of it. May be called again.
    pub(crate) async fn delete(&self) -> Result<()> {
        self.stop().await?;
        self.container.delete().await
    }
}

async fn make(config: &SandboxConfig, maker: &Maker) -> Result<RuncContainer> {
    // Open until the holder is in it.
    let user = match (&config.netns, config.user_namespace) {
        (Some(netns), true) => Some(network::owner(netns)?),
        _ => None,
    };
    let path = user.as_ref().map(|user| {
        let (own, fd) = (std::process::id(), user.as_raw_fd());
        PathBuf::from(format!("/proc/{own}/fd/{fd}"))
    });
    let spec = specification::of(config, path.as_deref());
    let file = config.bundle.join("config.json");
    std::fs::write(&file, spec.to_string()).context(|| format!("write {}", file.display()))?;
    let spec = serde_json::from_value(spec).context(|| format!("read {}", file.display()))?;
    let container = ContainerConfig {
        id: config.id.clone(),
        bundle: config.bundle.clone(),
        spec: Arc::new(spec),
        rootfs: vec![root(config)],
        stdio: Stdio::default(),
        options: RuntimeOptions::default(),
    };
    maker.make(container, true).await
}

/// A filesystem of its own, which is its root user's.
fn root(config: &SandboxConfig) -> Mount {
    let mut options = ["nosuid", "mode=755", "size=64k"]
        .map(String::from)
        .to_vec();
    let IdMappings { uids, gids } = &config.id_mappings;
    for (option, ids) in [("uid", uids), ("gid", gids)] {
        let root = ids.iter().find(|line| line.container_id() == 0);
        options.extend(root.map(|line| format!("{option}={}", line.host_id())));
    }
    Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: String::new(),
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_without_a_container_of_its_own_has_a_holder() {
        let mut config = SandboxConfig {
            id: "a".into(),
            bundle: "/b/a".into(),
            cgroups_path: Some("/kubepods/pod1/a".into()),
            ..SandboxConfig::default()
        };
        assert_eq!(Record::of(&config), None);
        config.kind = SandboxKind::Sandbox;
        let record = Record::of(&config).expect("one");
        let text = r#"{"pod":"a","bundle":"/b/a","cgroups_path":"/kubepods/pod1/a"}"#;
        assert_eq!(serde_json::to_string(&record).expect("written"), text);
    }
}
