//! Volumes of the pod. None is the host's: what it brings are the bytes of files, as messages.

use serde::{Deserialize, Serialize};

use super::{Digest, Pattern, is_false};

/// A volume that containers may have mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name in the manifest. What the kubelet and containerd add has these: `etc-hosts`,
    /// `resolv.conf`, `hostname`, `termination-log`.
    pub name: String,
    /// What is in it.
    pub kind: VolumeKind,
}

/// What is in a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeKind {
    /// A directory that is empty at first.
    EmptyDir {
        /// What it is kept on.
        medium: Medium,
        /// How much fits into it, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// A file that is empty at first, another one for each container (`/dev/termination-log`).
    EmptyFile,
    /// Files whose bytes the host brings before a container has them mounted: of a ConfigMap, a Secret,
    /// a projection, or what the kubelet writes for containers.
    Files {
        /// Those there may be.
        files: Vec<FileRule>,
        /// It is one file, not a directory with files; then the file's path is empty.
        #[serde(default, skip_serializing_if = "is_false")]
        single: bool,
        /// The host may bring them anew while containers run.
        #[serde(default, skip_serializing_if = "is_false")]
        update: bool,
        /// The host knows what is in them, as it does of ServiceAccount tokens: nothing secret is kept by
        /// them.
        #[serde(default, skip_serializing_if = "is_false")]
        known_to_host: bool,
    },
}

/// What a directory is kept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// The guest's memory.
    Memory,
    /// The guest's scratch disk, encrypted by a key that is nowhere else.
    Encrypted,
}

/// A file that the host may bring, or several whose paths are of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Where it is in the volume, with `/` between its parts.
    pub path: Pattern,
    /// What may be in it.
    pub content: Content,
    /// The bits of its mode that may be set.
    pub mode: u32,
    /// Whose it is. The host is not asked.
    #[serde(default, skip_serializing_if = "Owner::is_root")]
    pub owner: Owner,
    /// It may be missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// Whose a file is, by numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The user's.
    #[serde(default)]
    pub user: u32,
    /// The group's.
    #[serde(default)]
    pub group: u32,
}

impl Owner {
    fn is_root(&self) -> bool {
        *self == Self::default()
    }
}

/// What may be in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// The bytes of this digest.
    Digest(Digest),
    /// This sealed secret, which the guest unseals.
    Sealed(String),
    /// Any, of at most this many bytes: what is in it is up to the host.
    AtMost(u32),
}
