//! A container of the pod.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Device, DeviceRule, Digest, ExecRule, Mount, Process, Range, ResourceBounds, Seccomp, is_false,
};

/// A container that may be made, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its name in the pod's manifest, by which the host says which one it means.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// The digest of the image's manifest, for people: what is run is bound by [`Self::layers`].
    pub image: Digest,
    /// What its root is made of, the uppermost first, as the agent's requests have it.
    pub layers: Vec<Layer>,
    /// The containers that must be there before it is made: one that is [`Kind::Init`] has ended with
    /// success, any other has been started.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<String>,
    /// The pod is not what its author wants without this one: see
    /// [`start_within`](super::Sandbox::start_within).
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
    /// Whether there may be another one when it has ended.
    pub restart: Restart,
    /// Its first process.
    pub process: Process,
    /// The root can't be written to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only_root: bool,
    /// What is mounted in it, in this order.
    pub mounts: Vec<Mount>,
    /// Its own namespaces; the others are the guest's. That of mounts is always its own.
    pub namespaces: BTreeSet<Namespace>,
    /// The filter of its system calls.
    pub seccomp: Seccomp,
    /// Paths that read as if they were empty.
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    pub masked_paths: Paths,
    /// Paths that can't be written to.
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    pub readonly_paths: Paths,
    /// Nodes beside those that every container has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Devices that it may open beside [those that every container may](DeviceRule::common).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub device_rules: BTreeSet<DeviceRule>,
    /// How soon the kernel may end it when memory runs out; the kubelet reckons it from the node's
    /// memory for some pods.
    pub oom_score: Range<i32>,
    /// Bounds of the limits that it is made with.
    #[serde(default, skip_serializing_if = "ResourceBounds::are_none")]
    pub resources: ResourceBounds,
    /// Bounds of limits that it may be given while it runs; without them it may be given none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<ResourceBounds>,
    /// Signals that the host may send, by number.
    pub signals: BTreeSet<u32>,
    /// What may be run in it: probes and hooks, and what the author wants to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<ExecRule>,
}

/// What a container is for, which decides when others may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It runs to its end before others start, and never again once it has ended with success.
    Init,
    /// It starts before others and stays (an init container with `restartPolicy: Always`).
    Sidecar,
    /// One of the pod's `containers`.
    App,
}

/// After which ends there may be another one of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// After none.
    Never,
    /// After one without success.
    OnFailure,
    /// After any. What is [`Kind::Init`] is not run again after success even so.
    Always,
}

/// A read-only filesystem that is verified block by block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// dm-verity's root hash (sha256, a salt of 32 zero bytes).
    pub root_hash: Digest,
    /// How many blocks of 4096 bytes the hash is of. It is bound with the hash: of another number the same
    /// hash verifies the tree's own blocks as data.
    pub blocks: u64,
}

/// A namespace that a container may have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Of its view of cgroups.
    Cgroup,
    /// Of mounts, which every container has.
    Mount,
    /// Of process numbers; without it the container sees the pod's.
    Pid,
}

/// Paths of a container, as versions of containerd name more or fewer of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The host has to name all of these.
    pub required: BTreeSet<String>,
    /// It may name these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub optional: BTreeSet<String>,
}

impl Paths {
    /// Whether none may be named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.optional.is_empty()
    }
}
