//! A pod as Kubernetes' API of versions 1.30 to 1.36 has it: every field is here, or refused by its name.

#![expect(dead_code, reason = "fields that are ignored are there to be known")]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::container::Container;
use super::security::PodSecurity;
use super::values::Ignored;
use super::volume::Volume;

/// `metadata` of any object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    pub name: Option<String>,
    /// The beginning of a name that the API server makes up.
    pub generate_name: Option<String>,
    /// Where it is.
    pub namespace: Option<String>,
    /// Its labels, which variables and volumes can show.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, which variables and volumes can show.
    pub annotations: BTreeMap<String, String>,
    creation_timestamp: Ignored,
    deletion_grace_period_seconds: Ignored,
    deletion_timestamp: Ignored,
    finalizers: Ignored,
    generation: Ignored,
    managed_fields: Ignored,
    owner_references: Ignored,
    resource_version: Ignored,
    self_link: Ignored,
    uid: Ignored,
}

/// `spec` of a pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSpec {
    /// The containers that run at the same time.
    pub containers: Vec<Container>,
    /// Those that run before, one after the other.
    #[serde(default)]
    pub init_containers: Vec<Container>,
    /// What containers can mount.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// `Always`, `OnFailure` or `Never`.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Whether a token is mounted into each container.
    pub automount_service_account_token: Option<bool>,
    /// Whether variables tell of the namespace's services.
    pub enable_service_links: Option<bool>,
    /// The pod's security settings.
    #[serde(default)]
    pub security_context: PodSecurity,
    /// The handler's RuntimeClass.
    pub runtime_class_name: Option<String>,
    /// In place of the pod's name.
    pub hostname: Option<String>,
    /// Of the pod's domain name.
    pub subdomain: Option<String>,
    /// Whether the host name has the domain.
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    /// Whether containers see each other's processes.
    pub share_process_namespace: Option<bool>,
    /// The node's network; refused.
    pub host_network: Option<bool>,
    /// The node's processes; refused.
    #[serde(rename = "hostPID")]
    pub host_pid: Option<bool>,
    /// The node's System V IPC; refused.
    #[serde(rename = "hostIPC")]
    pub host_ipc: Option<bool>,
    /// Whether users are the node's; `false` is refused.
    pub host_users: Option<bool>,
    /// The operating system.
    pub os: Option<Os>,
    /// Whose token is mounted.
    pub service_account_name: Option<String>,
    /// Its name of old.
    pub service_account: Option<String>,
    /// The node, where it is chosen by name.
    pub node_name: Option<String>,

    // What the node makes of these is in /etc/hosts and /etc/resolv.conf, which are the host's in any case.
    /// What is in `/etc/resolv.conf` beside the node's.
    pub dns_config: Option<Ignored>,
    /// Whose `/etc/resolv.conf` it is.
    pub dns_policy: Option<Ignored>,
    /// What is in `/etc/hosts` beside the pod's name.
    pub host_aliases: Option<Ignored>,

    // These choose a node, and how long the pod stays on it.
    #[serde(default)]
    active_deadline_seconds: Ignored,
    #[serde(default)]
    affinity: Ignored,
    #[serde(default)]
    image_pull_secrets: Ignored,
    #[serde(default)]
    node_selector: Ignored,
    #[serde(default)]
    overhead: Ignored,
    #[serde(default)]
    preemption_policy: Ignored,
    #[serde(default)]
    priority: Ignored,
    #[serde(default)]
    priority_class_name: Ignored,
    #[serde(default)]
    readiness_gates: Ignored,
    /// Of the pod as a whole: the node's cgroup.
    #[serde(default)]
    resources: Ignored,
    #[serde(default)]
    scheduler_name: Ignored,
    #[serde(default)]
    scheduling_gates: Ignored,
    #[serde(default)]
    termination_grace_period_seconds: Ignored,
    #[serde(default)]
    tolerations: Ignored,
    #[serde(default)]
    topology_spread_constraints: Ignored,
    #[serde(default)]
    workload_ref: Ignored,
    #[serde(default)]
    scheduling_group: Ignored,
}

/// When a pod's containers are started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    /// Whenever they end.
    #[default]
    Always,
    /// When they end with another code than 0.
    OnFailure,
    /// Not.
    Never,
}

/// `os` of a pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Os {
    /// `linux`.
    pub name: OsName,
}

/// The operating systems that a confidential pod can have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OsName {
    /// Linux.
    Linux,
}

/// A pod, wherever it stands in a manifest: a Pod itself, or a workload's template.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodTemplate {
    /// Name and namespace of a Pod; labels and annotations of either.
    #[serde(default)]
    pub metadata: Metadata,
    /// What runs.
    pub spec: PodSpec,
    #[serde(default)]
    api_version: Ignored,
    #[serde(default)]
    kind: Ignored,
    #[serde(default)]
    status: Ignored,
}

impl PodSpec {
    /// Each container, in the order in which they start, and where it stands: its list and its number there.
    pub fn all_containers(&self) -> impl Iterator<Item = (&'static str, usize, &Container)> {
        let init = self.init_containers.iter().enumerate();
        let apps = self.containers.iter().enumerate();
        init.map(|(number, one)| ("initContainers", number, one))
            .chain(apps.map(|(number, one)| ("containers", number, one)))
    }
}
