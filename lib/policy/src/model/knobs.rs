//! What a pod gives its host beyond running. All of it is off unless the policy says otherwise.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Pattern, is_false};

/// What the host may have of all containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// What containers write to stdout and stderr reaches the host (`kubectl logs`). Without it their
    /// logs have one line that says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub logs: bool,
    /// The host may show the output of a container with a terminal as it comes, and resize the terminal
    /// (`kubectl attach`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub attach: bool,
    /// The host may write to the stdin of containers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin: bool,
    /// The guest's TCP ports that the host may connect to past the pod's network
    /// (`kubectl port-forward`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub port_forward: BTreeSet<u16>,
    /// The host may read the guest's kernel log.
    #[serde(default, skip_serializing_if = "is_false")]
    pub kernel_log: bool,
}

impl Knobs {
    /// Whether the host gets nothing of it.
    #[must_use]
    pub fn are_off(&self) -> bool {
        *self == Self::default()
    }
}

/// A further process that may be run in a container. All but its command is as of the container's first
/// process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRule {
    /// What may be run.
    pub command: Command,
    /// The host may ask for a terminal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// The host may write to its stdin.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin: bool,
    /// The host gets what it writes. A probe needs none of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub output: bool,
}

/// The arguments of a process, the program's name first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// One for each argument.
    pub arguments: Vec<Pattern>,
    /// More may follow, whatever they are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}
