//! What a pod leaves on the host when its shim is killed, and how it is removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trefoil_cgroups::Cgroup;
use trefoil_core::{Context, Result, SandboxConfig};
use trefoil_os::mountinfo;

use super::{network, uids};

/// What must be known of a pod to remove what it leaves, on disk before there is anything to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CleanupRecord {
    /// The pod's id.
    pub pod: String,
    /// The directory that containerd gave it.
    pub bundle: PathBuf,
    /// The cgroup of its processes on the host, as its configuration names it.
    pub cgroups_path: Option<PathBuf>,
    /// The network namespace whose interfaces are joined to the machine.
    pub netns: Option<PathBuf>,
}

impl CleanupRecord {
    /// Of a pod that is about to be made.
    pub fn of(config: &SandboxConfig) -> Self {
        Self {
            pod: config.id.clone(),
            bundle: config.bundle.clone(),
            cgroups_path: config.cgroups_path.clone(),
            netns: config.netns.clone(),
        }
    }

    /// The cgroup of the pod's processes on the host.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::find(self.cgroups_path.as_deref(), &self.pod, false)
            .context(|| format!("find the cgroup of pod {}", self.pod))
    }

    /// Removes all that is left of a pod whose shim is dead, its processes included; what isn't there is no
    /// failure. Says what it removed. Each step is tried.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn clean_up(&self) -> Result<Vec<String>> {
        let left_network = match &self.netns {
            Some(netns) => network::detach(netns),
            None => Ok(()),
        };
        let killed = self.cgroup().and_then(|cgroup| {
            cgroup
                .kill_and_remove()
                .context(|| "remove the pod's cgroup")
        });
        let unmounted = mountinfo::unmount_all(&self.bundle.join("rootfs"));
        uids::clean_up();
        left_network?;
        let mut removed = Vec::new();
        for (count, what) in [(killed?, "processes"), (unmounted?, "mounts")] {
            if count > 0 {
                removed.push(format!("{count} {what} of pod {}", self.pod));
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that a shim of an earlier release has written.
    #[test]
    fn an_earlier_releases_record_is_read() {
        let text = r#"{"pod":"a","bundle":"/b/a","cgroups_path":"/kubepods/pod1/a","netns":"/run/netns/x"}"#;
        let record: CleanupRecord = serde_json::from_str(text).expect("read");
        let config = SandboxConfig {
            id: "a".into(),
            namespace: "k8s.io".into(),
            bundle: "/b/a".into(),
            cgroups_path: Some("/kubepods/pod1/a".into()),
            netns: Some("/run/netns/x".into()),
            ..SandboxConfig::default()
        };
        assert_eq!(record, CleanupRecord::of(&config));
        assert_eq!(serde_json::to_string(&record).expect("written"), text);
    }
}
