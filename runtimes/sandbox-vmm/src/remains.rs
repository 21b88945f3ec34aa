//! What is left of a pod when its shim has been killed. The VMM and the file server end with the shim;
//! what is not a process is told here, before it exists.

use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use trefoil_core::{Result, SandboxConfig};

use crate::{identity, network};

/// All that a cleaner must know of a pod, to be kept where it outlives the shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    /// The pod's name.
    pub pod: String,
    /// The directory of its first container.
    pub bundle: PathBuf,
    /// The cgroup of its processes, as the first container's configuration names it.
    pub cgroups_path: Option<PathBuf>,
    /// The network namespace whose interfaces are joined to the machine.
    pub netns: Option<PathBuf>,
}

impl Remains {
    /// Of a pod that is about to be made.
    pub fn of(config: &SandboxConfig) -> Self {
        let linux = config.spec.linux().as_ref();
        let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
        Self {
            pod: config.id.clone(),
            bundle: config.bundle.clone(),
            cgroups_path: linux.and_then(|linux| linux.cgroups_path().clone()),
            netns: namespaces
                .unwrap_or_default()
                .iter()
                .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
                .and_then(|namespace| namespace.path().clone()),
        }
    }
}

/// Removes all that is left of a pod whose shim is dead, its processes included; what isn't there is no
/// failure. Says what it removed.
///
/// # Errors
/// What could not be removed. The rest has been.
pub fn clean_up(remains: &Remains) -> Result<Vec<String>> {
    let left = match &remains.netns {
        Some(netns) => network::detach(netns),
        None => Ok(()),
    };
    let removed = trefoil_runc::clean_up(
        &remains.pod,
        &remains.bundle,
        remains.cgroups_path.as_deref(),
        false,
    )?;
    identity::clean_up();
    left.map(|()| removed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_cleaner_needs_follows_from_the_configuration() {
        let spec = serde_json::from_str(
            r#"{"ociVersion": "1.0.2", "linux": {
                "cgroupsPath": "/kubepods/pod1/a",
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]
            }}"#,
        );
        let remains = Remains::of(&SandboxConfig {
            id: "a".into(),
            namespace: "k8s.io".into(),
            bundle: "/b/a".into(),
            spec: Arc::new(spec.expect("spec")),
        });
        assert_eq!(remains.netns.as_deref(), Some(Path::new("/run/netns/x")));
        assert_eq!(
            remains.cgroups_path.as_deref(),
            Some(Path::new("/kubepods/pod1/a"))
        );
        let text = serde_json::to_string(&remains).expect("written");
        assert_eq!(
            serde_json::from_str::<Remains>(&text).expect("read"),
            remains
        );
    }
}
