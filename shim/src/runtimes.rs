//! The runtimes that this binary holds, one for each isolation: the one place that knows them apart.

use std::fs::File;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trefoil_core::{Context, Error, ErrorKind, Isolation, Result, Runtime, SandboxConfig};
use trefoil_runc::{Launcher, Runc};
use trefoil_sandbox_vmm::{MicroVm, Settings};

/// Why an isolation can't be had of this binary on this node, if it can't.
pub fn lack(isolation: Isolation) -> Option<String> {
    match isolation {
        Isolation::Namespace => None,
        Isolation::MicroVm => File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .err()
            .map(|why| format!("this node's /dev/kvm can't be opened: {why}")),
        Isolation::Confidential => Some(not_built(isolation)),
    }
}

fn not_built(isolation: Isolation) -> String {
    format!("this build has no {isolation} runtime")
}

/// What containers of a pod that is at least `floor` can have, in the words of the OCI runtime
/// specification's `features` document. In a guest it is the same code that makes them, but the host's
/// users, hooks and AppArmor stay outside.
pub fn features(floor: Isolation) -> Value {
    let mut features = trefoil_runc::features();
    if floor >= Isolation::MicroVm {
        features["hooks"] = json!([]);
        let linux = &mut features["linux"];
        linux["namespaces"] = json!(["cgroup", "ipc", "mount", "network", "pid", "time", "uts"]);
        linux["cgroup"]["v1"] = json!(false);
        linux["cgroup"]["systemd"] = json!(false);
        linux["apparmor"]["enabled"] = json!(false);
        linux["mountExtensions"]["idmap"]["enabled"] = json!(false);
    }
    features
}

/// The types of mounts, as containerd names them, that pods of at least `floor` make of a root filesystem's
/// themselves. `None`: they get what containerd has mounted.
pub fn own_mounts(floor: Isolation) -> Option<&'static str> {
    (floor >= Isolation::MicroVm).then_some(trefoil_sandbox_vmm::OWN_MOUNTS)
}

/// A runtime as far as it can be made while the process has one thread and no event loop.
pub enum Prepared {
    /// Namespaces, with their helper.
    Namespace(Launcher),
    /// MicroVMs.
    MicroVm(Settings),
}

impl Prepared {
    /// Prepares the runtime of an isolation. `microvm` is what its machine is like, if it gets one.
    pub fn new(isolation: Isolation, microvm: &Settings) -> Result<Self> {
        match isolation {
            // The helper is a fork of this process while it is still small and single-threaded.
            Isolation::Namespace => Launcher::spawn()
                .map(Self::Namespace)
                .context(|| "start the helper process"),
            Isolation::MicroVm => Ok(Self::MicroVm(microvm.clone())),
            Isolation::Confidential => {
                Err(Error::new(ErrorKind::Unimplemented, not_built(isolation)))
            }
        }
    }

    /// The runtime. Must be called within the event loop.
    pub fn runtime(self) -> Arc<dyn Runtime> {
        match self {
            Self::Namespace(launcher) => Arc::new(Runc::new(launcher)),
            Self::MicroVm(settings) => Arc::new(MicroVm::new(settings)),
        }
    }
}

/// What a pod leaves beside its containers when its shim is killed, by its isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remains {
    /// Of a microVM.
    MicroVm(trefoil_sandbox_vmm::Remains),
}

impl Remains {
    /// Of a pod of this isolation that is about to be made; `None` if there will be nothing.
    pub fn of(isolation: Isolation, config: &SandboxConfig) -> Option<Self> {
        match isolation {
            Isolation::Namespace => None,
            Isolation::MicroVm | Isolation::Confidential => {
                Some(Self::MicroVm(trefoil_sandbox_vmm::Remains::of(config)))
            }
        }
    }

    /// Removes it; what isn't there is no failure. Says what it removed.
    ///
    /// # Errors
    /// What could not be removed. The rest has been.
    pub fn clean_up(&self) -> Result<Vec<String>> {
        match self {
            Self::MicroVm(remains) => trefoil_sandbox_vmm::clean_up(remains),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_no_users_of_the_hosts() {
        let idmap = |floor| features(floor)["linux"]["mountExtensions"]["idmap"]["enabled"].clone();
        assert_eq!(idmap(Isolation::Namespace), json!(true));
        for floor in [Isolation::MicroVm, Isolation::Confidential] {
            let features = features(floor);
            assert_eq!(idmap(floor), json!(false));
            assert_eq!(features["linux"]["seccomp"]["enabled"], json!(true));
            assert!(!features["linux"]["namespaces"].to_string().contains("user"));
        }
    }
}
