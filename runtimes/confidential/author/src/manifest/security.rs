//! Security settings of pods and containers.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::values::Ignored;

/// `securityContext` of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PodSecurity {
    /// The owner of what is in volumes, and a group of all processes.
    pub fs_group: Option<u32>,
    /// The user, unless a container names one.
    pub run_as_user: Option<u32>,
    /// The group, unless a container names one.
    pub run_as_group: Option<u32>,
    /// Whether root is refused.
    pub run_as_non_root: Option<bool>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups count too.
    pub supplemental_groups_policy: GroupsPolicy,
    /// Which system calls there are.
    pub seccomp_profile: Option<Profile>,
    /// The node's; must not name a file of it.
    pub app_armor_profile: Option<Profile>,
    /// Refused.
    pub se_linux_options: Option<IgnoredAny>,
    /// The pod's kernel parameters.
    pub sysctls: Vec<Sysctl>,
    fs_group_change_policy: Ignored,
    se_linux_change_policy: Ignored,
}

/// `securityContext` of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ContainerSecurity {
    /// Whether a process may gain privileges.
    pub allow_privilege_escalation: Option<bool>,
    /// The node's; must not name a file of it.
    pub app_armor_profile: Option<Profile>,
    /// What is added to and taken from the runtime's default.
    pub capabilities: Capabilities,
    /// Refused.
    pub privileged: Option<bool>,
    /// `Default`.
    pub proc_mount: Option<ProcMount>,
    /// Whether its root can't be written to.
    pub read_only_root_filesystem: Option<bool>,
    /// The user.
    pub run_as_user: Option<u32>,
    /// The group.
    pub run_as_group: Option<u32>,
    /// Whether root is refused.
    pub run_as_non_root: Option<bool>,
    /// Refused.
    pub se_linux_options: Option<IgnoredAny>,
    /// Which system calls there are.
    pub seccomp_profile: Option<Profile>,
}

/// Capabilities, without `CAP_`, or `ALL`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Those that are added.
    pub add: Vec<String>,
    /// Those that are taken.
    pub drop: Vec<String>,
}

/// Of which groups a process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum GroupsPolicy {
    /// Those of the manifest and of the image's `/etc/group`.
    #[default]
    Merge,
    /// Those of the manifest alone.
    Strict,
}

/// A profile of seccomp or AppArmor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Profile {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ProfileKind,
    /// The file on the node, of `Localhost`.
    pub localhost_profile: Option<String>,
}

/// The kinds of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ProfileKind {
    /// The runtime's.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file on the node; refused.
    Localhost,
}

/// What of `/proc` is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ProcMount {
    /// What runtimes hide.
    Default,
    /// Nothing; refused.
    Unmasked,
}

/// A kernel parameter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Its name, with dots or slashes.
    pub name: String,
    /// Its value.
    pub value: String,
}
