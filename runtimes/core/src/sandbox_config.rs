//! What is known of a pod before its first container is made, in plain facts: no runtime reads the
//! configuration of a container to learn of the pod.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxResources};

/// A pod to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The pod's id, as containerd gave it.
    pub id: String,
    /// The containerd namespace it is in.
    pub namespace: String,
    /// The directory that containerd gave it.
    pub bundle: PathBuf,
    /// Who made it, which decides what its containers are like.
    pub kind: SandboxKind,
    /// Its host name; empty if it has none of its own.
    pub hostname: String,
    /// Which of the node's namespaces it is to use in place of its own.
    pub node_namespaces: NodeNamespaces,
    /// Whether it is to have a user namespace of its own.
    pub user_namespace: bool,
    /// Which of the node's ids the ids of that namespace stand for; empty where the pod's own container
    /// says so.
    pub id_mappings: IdMappings,
    /// The network namespace that CNI has prepared, if it is to join one.
    pub netns: Option<PathBuf>,
    /// Kernel parameters of its namespaces, by their names with dots.
    pub sysctls: HashMap<String, String>,
    /// Its cgroup, in the form that the runtime specification gives `linux.cgroupsPath`.
    pub cgroups_path: Option<PathBuf>,
    /// Whether the cgroup above that one is the pod's as well, and holds all its containers'.
    pub owns_parent_cgroup: bool,
    /// What it may use.
    pub limits: Limits,
    /// The `oom_score_adj` of its processes, if it is not the shim's own.
    pub oom_score_adj: Option<i16>,
    /// The SELinux label of its processes.
    pub selinux_label: Option<String>,
    /// Those of its annotations that are its runtime's own business
    /// ([`own_annotations`](crate::Provider::own_annotations)).
    pub annotations: BTreeMap<String, String>,
}

/// What a pod is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxKind {
    /// A pod of CRI's, for as many containers as come. The first of them is its own, and holds its
    /// namespaces unless the sandbox does.
    Pod,
    /// A pod that is made by containerd's Sandbox API, and has no container of its own: the sandbox holds
    /// its namespaces.
    Sandbox,
    /// One container that knows of no pod, as ctr makes them.
    #[default]
    SingleContainer,
}

/// Which ids of the node the ids of a user namespace stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMappings {
    /// Users.
    pub uids: Vec<LinuxIdMapping>,
    /// Groups.
    pub gids: Vec<LinuxIdMapping>,
}

/// Namespaces that a pod shares with the node: Kubernetes' `hostNetwork`, `hostPID` and `hostIPC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeNamespaces {
    /// The node's network.
    pub network: bool,
    /// The node's processes.
    pub pid: bool,
    /// The node's System V IPC and POSIX message queues.
    pub ipc: bool,
}

/// What a pod or a container may use at most; what is `None` has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processor time, in thousandths of a processor.
    pub millicpus: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// The period of a quota that comes without one, in microseconds: the kernel's own.
    const DEFAULT_PERIOD: u64 = 100_000;

    /// Limits as CRI and the kernel have them: quota and period in microseconds, memory in bytes. What is
    /// zero or negative is no limit.
    pub fn new(quota: i64, period: i64, memory: i64) -> Self {
        let period = positive(period).unwrap_or(Self::DEFAULT_PERIOD);
        let millicpus = positive(quota).map(|quota| {
            let millicpus = (u128::from(quota) * 1000).div_ceil(u128::from(period));
            u64::try_from(millicpus).unwrap_or(u64::MAX)
        });
        Self {
            millicpus,
            memory: positive(memory),
        }
    }

    /// A container's limits.
    pub fn of(resources: Option<&LinuxResources>) -> Self {
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let period = cpu.and_then(|cpu| cpu.period()).unwrap_or(0);
        Self::new(
            cpu.and_then(|cpu| cpu.quota()).unwrap_or(0),
            i64::try_from(period).unwrap_or(i64::MAX),
            memory.and_then(|memory| memory.limit()).unwrap_or(0),
        )
    }
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_rounded_up() {
        for (quota, period, memory, millicpus, bytes) in [
            (100_000, 100_000, 1, Some(1000), Some(1)),
            (100_001, 100_000, 0, Some(1001), None),
            (50_000, 0, -1, Some(500), None),
            (-1, 100_000, 5, None, Some(5)),
            (i64::MAX, 1, 0, Some(u64::MAX), None),
        ] {
            let limits = Limits::new(quota, period, memory);
            assert_eq!((limits.millicpus, limits.memory), (millicpus, bytes));
        }
        assert_eq!(Limits::of(None), Limits::default());
    }
}
