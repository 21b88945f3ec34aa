//! What is shared.

use std::path::PathBuf;

use trefoil_core::Mount;

/// A directory with all below it, or one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it comes from.
    pub source: Source,
    /// The guest can't change it.
    pub read_only: bool,
    /// Who else may change it.
    pub changes: Changes,
}

/// Where a tree comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What is at a path of the host, a directory or a file. A symbolic link at its end is followed.
    Path {
        /// The path, absolute.
        path: PathBuf,
        /// With what is mounted below it now (`rbind`).
        submounts: bool,
    },
    /// A root filesystem as a snapshotter describes it: each mounted upon the one before.
    Mounts(Vec<Mount>),
}

/// Who may change a tree while it is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The host too: what it changes is seen in the guest about a second later.
    Anybody,
    /// Only the guest, as a container's own root filesystem: the guest's kernel keeps what it knows
    /// for as long as it likes.
    GuestOnly,
}
