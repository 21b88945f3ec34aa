//! A container of a pod.

#![expect(dead_code, reason = "fields that are ignored are there to be known")]

use serde::Deserialize;

use super::mount::VolumeMount;
use super::security::ContainerSecurity;
use super::values::{Ignored, Quantity};

/// A container, or an init container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    /// Its name, unique in the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// In place of the image's entry point.
    #[serde(default)]
    pub command: Vec<String>,
    /// In place of the image's arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// In place of the image's.
    pub working_dir: Option<String>,
    /// Variables.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Variables from whole ConfigMaps and Secrets.
    #[serde(default)]
    pub env_from: Vec<EnvFrom>,
    /// Limits and requests.
    #[serde(default)]
    pub resources: Resources,
    /// What of the pod's volumes is where.
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    /// Asks whether it lives.
    pub liveness_probe: Option<Probe>,
    /// Asks whether it may be sent requests.
    pub readiness_probe: Option<Probe>,
    /// Asks whether it has started.
    pub startup_probe: Option<Probe>,
    /// What is run in it after its start and before its stop.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Where its last words are.
    pub termination_message_path: Option<String>,
    /// Its security settings.
    #[serde(default)]
    pub security_context: ContainerSecurity,
    /// Whether it has an input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// `Always` of an init container makes it a sidecar.
    pub restart_policy: Option<SidecarPolicy>,

    // What the node does for itself, or what only documents.
    #[serde(default)]
    image_pull_policy: Ignored,
    #[serde(default)]
    ports: Ignored,
    #[serde(default)]
    resize_policy: Ignored,
    #[serde(default)]
    stdin_once: Ignored,
    #[serde(default)]
    termination_message_policy: Ignored,
}

/// `restartPolicy` of an init container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SidecarPolicy {
    /// A sidecar: it goes on running while the next ones start.
    Always,
    /// As the pod's (containers may have their own from Kubernetes 1.34 on).
    OnFailure,
    /// It runs once.
    Never,
}

/// A variable.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, in which `$(NAME)` stands for another's.
    #[serde(default)]
    pub value: String,
    /// Where its value is.
    pub value_from: Option<ValueFrom>,
}

/// Where a variable's value is: one of these.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ValueFrom {
    /// In the pod.
    pub field_ref: Option<FieldRef>,
    /// In a container's limits and requests.
    pub resource_field_ref: Option<ResourceFieldRef>,
    /// In a ConfigMap.
    pub config_map_key_ref: Option<KeyRef>,
    /// In a Secret.
    pub secret_key_ref: Option<KeyRef>,
}

/// A field of the pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FieldRef {
    /// Its path.
    pub field_path: String,
    #[serde(default)]
    api_version: Ignored,
}

/// A limit or request of a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourceFieldRef {
    /// Of which container; its own unless it is named.
    #[serde(default)]
    pub container_name: String,
    /// `limits.cpu` and its like.
    pub resource: String,
    /// The unit.
    pub divisor: Option<Quantity>,
}

/// A key of a ConfigMap or Secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyRef {
    /// The object's name.
    #[serde(default)]
    pub name: String,
    /// The key.
    pub key: String,
    /// Whether it may be missing.
    pub optional: Option<bool>,
}

/// Variables from a whole ConfigMap or Secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EnvFrom {
    /// Before each name.
    #[serde(default)]
    pub prefix: String,
    /// The ConfigMap.
    pub config_map_ref: Option<ObjectName>,
    /// The Secret.
    pub secret_ref: Option<ObjectName>,
}

/// An object that may be missing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectName {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Whether it may be missing.
    pub optional: Option<bool>,
}

/// Limits and requests.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Resources {
    /// What it may have.
    pub limits: Amounts,
    /// What it is promised.
    pub requests: Amounts,
    /// Devices by claim; refused.
    pub claims: Vec<serde::de::IgnoredAny>,
}

/// Amounts by resource.
pub type Amounts = std::collections::BTreeMap<String, Quantity>;

/// What the kubelet asks a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    /// By a command in it.
    pub exec: Option<ExecAction>,

    // These ask by the network, and when and how often is the node's to decide in any case.
    #[serde(default)]
    grpc: Ignored,
    #[serde(default)]
    http_get: Ignored,
    #[serde(default)]
    tcp_socket: Ignored,
    #[serde(default)]
    failure_threshold: Ignored,
    #[serde(default)]
    initial_delay_seconds: Ignored,
    #[serde(default)]
    period_seconds: Ignored,
    #[serde(default)]
    success_threshold: Ignored,
    #[serde(default)]
    termination_grace_period_seconds: Ignored,
    #[serde(default)]
    timeout_seconds: Ignored,
}

/// A command that is run in a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecAction {
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
}

/// What is run after a container's start and before its stop.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// After its start.
    pub post_start: Option<Handler>,
    /// Before its stop.
    pub pre_stop: Option<Handler>,
    /// By which it is stopped, in place of the image's.
    pub stop_signal: Option<String>,
}

/// One of [`Lifecycle`]'s.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Handler {
    /// A command.
    pub exec: Option<ExecAction>,
    #[serde(default)]
    http_get: Ignored,
    #[serde(default)]
    sleep: Ignored,
    #[serde(default)]
    tcp_socket: Ignored,
}
