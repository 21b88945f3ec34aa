//! The pod as a whole.

use serde::{Deserialize, Serialize};

use super::Pattern;

/// What the guest is set up with, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// The guest's hostname: exact for a Pod, with a prefix for what a controller names.
    pub hostname: Pattern,
    /// The kernel's settings, all of them and no others; their names are unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<Sysctl>,
    /// The earliest time that the guest's clock may be set to, in seconds since 1970: that of the
    /// policy's making. What is older can't be told from a certificate's replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// Within how many seconds of the set-up all containers have to be started that are
    /// [required](super::Container::required); else the guest ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_within: Option<u32>,
}

/// One setting of the guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// With dots: `net.ipv4.ip_unprivileged_port_start`.
    pub name: String,
    /// What it is set to.
    pub value: String,
}
