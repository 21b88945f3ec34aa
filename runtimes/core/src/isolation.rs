use std::fmt;

use serde::{Deserialize, Serialize};

/// How strongly a pod is kept away from its host and its neighbours. Ordered: a greater value is a
/// stronger isolation, so "never weaker than" is `>=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Linux namespaces on the host's kernel.
    Namespace,
    /// A virtual machine of its own, on KVM.
    MicroVm,
    /// A virtual machine whose memory and state the host can't read, with a measured launch.
    Confidential,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Namespace => "namespace",
            Isolation::MicroVm => "microvm",
            Isolation::Confidential => "confidential",
        })
    }
}
