//! Where a container has a pod's volumes.

use serde::Deserialize;

/// Where a container has a volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// The path in the container.
    pub mount_path: String,
    /// Whether it can't be written to.
    #[serde(default)]
    pub read_only: bool,
    /// Whether what is mounted below can't, either.
    pub recursive_read_only: Option<Recursively>,
    /// A part of it.
    #[serde(default)]
    pub sub_path: String,
    /// A part of it, named with variables.
    #[serde(default)]
    pub sub_path_expr: String,
    /// Whether mounts made elsewhere are seen.
    pub mount_propagation: Option<Propagation>,
}

/// Whether mounts below are read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Recursively {
    /// Not said.
    Disabled,
    /// Where the node can do it.
    IfPossible,
    /// In any case.
    Enabled,
}

/// Whether mounts made elsewhere are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Propagation {
    /// No.
    None,
    /// Those of the node; there are none in a guest.
    HostToContainer,
    /// Both ways; refused.
    Bidirectional,
}
