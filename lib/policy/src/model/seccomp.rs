//! The filter of a container's system calls.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// Whether a container's system calls are filtered, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// They are not. The host may send no filter.
    Unconfined,
    /// By this filter. The host has to send one, as it would for any container; as what it sends depends
    /// on its containerd's version, that one is dropped and this one is installed.
    Profile(Box<Profile>),
}

/// A filter, as the OCI runtime specification has it in `linux.seccomp`. Who would decide in a guest's
/// stead is not there to ask: there are no listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// For system calls that are not named.
    pub default_action: Action,
    /// With this error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Architectures whose system calls are known, as `SCMP_ARCH_…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// For what is named. The first that fits decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Syscalls>,
}

/// System calls, and what is done about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syscalls {
    /// What they are called.
    pub names: Vec<String>,
    /// What is done.
    pub action: Action,
    /// With this error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// If all of these fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// A comparison of a system call's argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Argument {
    /// Which argument, from 0 to 5.
    pub index: u32,
    /// What it is compared with, or its mask.
    pub value: u64,
    /// What it is compared with if there is a mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_two: Option<u64>,
    /// How.
    pub op: Comparison,
}

named! {
    /// What is done about a system call.
    Action:
    Allow = "SCMP_ACT_ALLOW",
    Errno = "SCMP_ACT_ERRNO",
    Kill = "SCMP_ACT_KILL",
    KillProcess = "SCMP_ACT_KILL_PROCESS",
    KillThread = "SCMP_ACT_KILL_THREAD",
    Log = "SCMP_ACT_LOG",
    Trap = "SCMP_ACT_TRAP",
}

named! {
    /// How an argument is compared.
    Comparison:
    Equal = "SCMP_CMP_EQ",
    GreaterOrEqual = "SCMP_CMP_GE",
    Greater = "SCMP_CMP_GT",
    LessOrEqual = "SCMP_CMP_LE",
    Less = "SCMP_CMP_LT",
    Masked = "SCMP_CMP_MASKED_EQ",
    NotEqual = "SCMP_CMP_NE",
}
