//! Volumes of a pod.

#![expect(dead_code, reason = "fields that are ignored are there to be known")]

use serde::Deserialize;

use super::container::{FieldRef, ResourceFieldRef};
use super::values::{Ignored, Quantity};

/// A volume: one of these. Kinds that hold the host's files are refused by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// Empty at the pod's start.
    pub empty_dir: Option<EmptyDir>,
    /// A ConfigMap's keys as files.
    pub config_map: Option<ConfigMapVolume>,
    /// A Secret's keys as files.
    pub secret: Option<SecretVolume>,
    /// Several of these in one directory.
    pub projected: Option<Projected>,
    /// The pod's fields as files.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<Downward>,
}

impl Volume {
    /// Whether it has files that the kubelet writes: it is no scratch.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.config_map.is_some()
            || self.secret.is_some()
            || self.projected.is_some()
            || self.downward_api.is_some()
    }
}

/// A directory that is empty at the pod's start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EmptyDir {
    /// Where it is.
    #[serde(default)]
    pub medium: String,
    /// How large it may become.
    pub size_limit: Option<Quantity>,
}

/// A ConfigMap's keys as files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigMapVolume {
    /// The ConfigMap.
    #[serde(default)]
    pub name: String,
    /// Which keys, and as which files; all unless there are some.
    #[serde(default)]
    pub items: Vec<Item>,
    /// Whether it may be missing.
    pub optional: Option<bool>,
    /// The files' mode.
    pub default_mode: Option<u32>,
}

/// A Secret's keys as files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretVolume {
    /// The Secret.
    #[serde(default)]
    pub secret_name: String,
    /// Which keys, and as which files; all unless there are some.
    #[serde(default)]
    pub items: Vec<Item>,
    /// Whether it may be missing.
    pub optional: Option<bool>,
    /// The files' mode.
    pub default_mode: Option<u32>,
}

/// A key as a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The file's path in the volume.
    pub path: String,
    /// The file's mode.
    pub mode: Option<u32>,
}

/// Several sources in one directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Projected {
    /// The sources.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// The files' mode.
    pub default_mode: Option<u32>,
}

/// A source of a projected volume: one of these.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// A ConfigMap.
    pub config_map: Option<ProjectedObject>,
    /// A Secret.
    pub secret: Option<ProjectedObject>,
    /// The pod's fields.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<Downward>,
    /// A token of the pod's service account.
    pub service_account_token: Option<Token>,
}

/// A ConfigMap or Secret in a projected volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectedObject {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Which keys, and as which files; all unless there are some.
    #[serde(default)]
    pub items: Vec<Item>,
    /// Whether it may be missing.
    pub optional: Option<bool>,
}

/// A token of the pod's service account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Token {
    /// The file's path in the volume.
    pub path: String,
    #[serde(default)]
    audience: Ignored,
    #[serde(default)]
    expiration_seconds: Ignored,
}

/// The pod's fields as files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Downward {
    /// The files.
    #[serde(default)]
    pub items: Vec<DownwardItem>,
    /// The files' mode.
    pub default_mode: Option<u32>,
}

/// A field as a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DownwardItem {
    /// The file's path in the volume.
    pub path: String,
    /// The field.
    pub field_ref: Option<FieldRef>,
    /// The limit or request.
    pub resource_field_ref: Option<ResourceFieldRef>,
    /// The file's mode.
    pub mode: Option<u32>,
}
