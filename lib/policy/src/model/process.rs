//! The first process of a container.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Pattern, is_false};
use crate::named::named;

/// What a process is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program and its arguments, exactly.
    pub command: Vec<String>,
    /// The environment. The host may set no variable that is not here, and none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<Env>,
    /// Whose process it is.
    pub user: User,
    /// Its working directory.
    pub cwd: String,
    /// What it may do of what is root's.
    pub capabilities: Capabilities,
    /// It can't gain privileges by executing a program.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// Its limits, one for each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// It has a terminal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminal: bool,
}

/// A variable of the environment, or several whose names are of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Env {
    /// What it is called.
    pub name: Pattern,
    /// What it may be.
    pub value: Pattern,
    /// It may be missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
    /// No denial shows what would be allowed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub secret: bool,
}

/// Whose process it is, by number: names are the image's and looked up when the policy is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub additional_gids: BTreeSet<u32>,
}

/// The five sets of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What the other sets can't exceed after a program is executed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bounding: BTreeSet<Capability>,
    /// What the kernel looks at.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub effective: BTreeSet<Capability>,
    /// What may be made effective.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub permitted: BTreeSet<Capability>,
    /// What a program with file capabilities may inherit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub inheritable: BTreeSet<Capability>,
    /// What any program inherits.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ambient: BTreeSet<Capability>,
}

named! {
    /// A part of what root may do: see capabilities(7).
    Capability:
    AuditControl = "CAP_AUDIT_CONTROL",
    AuditRead = "CAP_AUDIT_READ",
    AuditWrite = "CAP_AUDIT_WRITE",
    BlockSuspend = "CAP_BLOCK_SUSPEND",
    Bpf = "CAP_BPF",
    CheckpointRestore = "CAP_CHECKPOINT_RESTORE",
    Chown = "CAP_CHOWN",
    DacOverride = "CAP_DAC_OVERRIDE",
    DacReadSearch = "CAP_DAC_READ_SEARCH",
    Fowner = "CAP_FOWNER",
    Fsetid = "CAP_FSETID",
    IpcLock = "CAP_IPC_LOCK",
    IpcOwner = "CAP_IPC_OWNER",
    Kill = "CAP_KILL",
    Lease = "CAP_LEASE",
    LinuxImmutable = "CAP_LINUX_IMMUTABLE",
    MacAdmin = "CAP_MAC_ADMIN",
    MacOverride = "CAP_MAC_OVERRIDE",
    Mknod = "CAP_MKNOD",
    NetAdmin = "CAP_NET_ADMIN",
    NetBindService = "CAP_NET_BIND_SERVICE",
    NetBroadcast = "CAP_NET_BROADCAST",
    NetRaw = "CAP_NET_RAW",
    Perfmon = "CAP_PERFMON",
    Setfcap = "CAP_SETFCAP",
    Setgid = "CAP_SETGID",
    Setpcap = "CAP_SETPCAP",
    Setuid = "CAP_SETUID",
    SysAdmin = "CAP_SYS_ADMIN",
    SysBoot = "CAP_SYS_BOOT",
    SysChroot = "CAP_SYS_CHROOT",
    SysModule = "CAP_SYS_MODULE",
    SysNice = "CAP_SYS_NICE",
    SysPacct = "CAP_SYS_PACCT",
    SysPtrace = "CAP_SYS_PTRACE",
    SysRawio = "CAP_SYS_RAWIO",
    SysResource = "CAP_SYS_RESOURCE",
    SysTime = "CAP_SYS_TIME",
    SysTtyConfig = "CAP_SYS_TTY_CONFIG",
    Syslog = "CAP_SYSLOG",
    WakeAlarm = "CAP_WAKE_ALARM",
}

named! {
    /// What a limit is of: see getrlimit(2).
    RlimitKind:
    AddressSpace = "RLIMIT_AS",
    Core = "RLIMIT_CORE",
    Cpu = "RLIMIT_CPU",
    Data = "RLIMIT_DATA",
    FileSize = "RLIMIT_FSIZE",
    Locks = "RLIMIT_LOCKS",
    LockedMemory = "RLIMIT_MEMLOCK",
    MessageQueues = "RLIMIT_MSGQUEUE",
    Nice = "RLIMIT_NICE",
    OpenFiles = "RLIMIT_NOFILE",
    Processes = "RLIMIT_NPROC",
    ResidentSet = "RLIMIT_RSS",
    RealTimePriority = "RLIMIT_RTPRIO",
    RealTime = "RLIMIT_RTTIME",
    PendingSignals = "RLIMIT_SIGPENDING",
    Stack = "RLIMIT_STACK",
}

/// A limit of a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// What of.
    #[serde(rename = "type")]
    pub kind: RlimitKind,
    /// What the kernel enforces.
    pub soft: u64,
    /// How far the process may raise that.
    pub hard: u64,
}
