//! The types of a policy, which are its schema as well: what JSON has and they haven't is an error.
//!
//! The same policy always has the same bytes: fields stand in the order of the types, sets are sorted,
//! and lists are lists because their order means something.

mod check;
pub(crate) use check::is_below;
mod container;
mod device;
mod digest;
mod json;
mod knobs;
mod mount;
mod pattern;
mod process;
mod resources;
mod sandbox;
mod seccomp;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};

pub use check::Fault;
pub use container::{Container, Kind, Layer, Namespace, Paths, Restart};
pub use device::{Access, Device, DeviceKind, DeviceRule};
pub use digest::{BadDigest, Digest};
pub use json::{LARGEST_POLICY, PolicyError};
pub use knobs::{Command, ExecRule, Knobs};
pub use mount::{BadOption, Mount, MountKind, MountOption};
pub use pattern::{Pattern, Typed};
pub use process::{Capabilities, Capability, Env, Process, Rlimit, RlimitKind, User};
pub use resources::{Range, ResourceBounds};
pub use sandbox::{Sandbox, Sysctl};
pub use seccomp::{Action, Argument, Comparison, Profile, Seccomp, Syscalls};
pub use volume::{Content, FileRule, Medium, Owner, Volume, VolumeKind};

/// The version of the schema that this crate reads and writes. Another one is refused.
pub const VERSION: u32 = 1;

/// What a pod's author allows its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`VERSION`].
    pub version: u32,
    /// Everything is allowed: for tests, and valid under a simulated TEE alone. What the policy lists
    /// has no effect then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub permissive: bool,
    /// The pod itself.
    pub sandbox: Sandbox,
    /// The volumes that containers have mounted, each of a name of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// The containers, each of a name of its own.
    pub containers: Vec<Container>,
    /// What the pod gives its host beyond running.
    #[serde(default, skip_serializing_if = "Knobs::are_off")]
    pub knobs: Knobs,
}

impl Policy {
    /// The container of a name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|one| one.name == name)
    }

    /// The volume of a name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|one| one.name == name)
    }
}

/// For fields that are left out of JSON unless they are set.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
