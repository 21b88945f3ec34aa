//! What the node's configuration says.

use std::time::Duration;

use crate::machine::profile::Profile;

/// What the node's configuration says of pods in machines.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the machines are made of.
    pub profile: Profile,
    /// Virtual CPUs of a pod without a limit.
    pub default_cpus: u8,
    /// Memory of a pod without a limit, in MiB.
    pub default_memory: u32,
    /// Memory that the guest's kernel and agent need beside the containers, in MiB.
    pub overhead: u32,
    /// How long a guest may take to be ready.
    pub boot_limit: Duration,
    /// Whether the shim counts as the pod's; it doesn't where the operator gave it a cgroup.
    pub count_shim: bool,
}
