//! What the pod as a whole needs of the host, from the configuration of its first container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use trefoil_core::Result;

use super::{label, refuse};

/// What a machine is told of its pod before the first container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The network namespace that CNI has prepared; none: no network but a loopback.
    pub netns: Option<PathBuf>,
    /// The pod's host name, if it has one.
    pub hostname: String,
    /// Settings of the guest's kernel.
    pub sysctls: HashMap<String, String>,
    /// Under which label of the host's SELinux the machine's processes run.
    pub selinux_label: Option<String>,
}

/// The namespaces that a pod of the host's would do without, as Kubernetes calls that.
const OF_THE_HOST: [(LinuxNamespaceType, &str); 3] = [
    (LinuxNamespaceType::Network, "hostNetwork"),
    (LinuxNamespaceType::Pid, "hostPID"),
    (LinuxNamespaceType::Ipc, "hostIPC"),
];

/// What the pod needs.
///
/// # Errors
/// If it needs the host's own namespaces.
pub(crate) fn needs(spec: &Spec) -> Result<Needs> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
    let namespaces = namespaces.unwrap_or_default();
    for (kind, name) in OF_THE_HOST {
        if !namespaces.iter().any(|namespace| namespace.typ() == kind) {
            return Err(refuse(
                &format!("{name}, as it has a kernel of its own"),
                "use a handler of namespace pods",
            ));
        }
    }
    if namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::User)
    {
        return Err(refuse(
            "a user namespace (hostUsers: false)",
            "leave it out, as the guest's users are none of the host's anyway",
        ));
    }
    let network = namespaces
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    Ok(Needs {
        netns: network
            .and_then(|network| network.path().as_deref())
            .filter(|path| *path != Path::new(""))
            .map(Path::to_path_buf),
        hostname: spec.hostname().clone().unwrap_or_default(),
        sysctls: linux
            .and_then(|linux| linux.sysctl().clone())
            .unwrap_or_default(),
        selinux_label: spec.process().as_ref().and_then(label).map(str::to_owned),
    })
}
