//! What a host may ask of a guest's agent: a closed set, each with all its fields.

mod configuration;
mod json;
mod linux;
mod process;
mod resources;
mod write;

pub use configuration::{Configuration, HostMount};
pub use linux::HostLinux;
pub use process::HostProcess;
pub use resources::{Cpu, HostDeviceRule, Memory, Resources};

use crate::Owner;

/// A request of the host's, of which nothing has been believed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the agent's protocol")]
pub enum Request {
    SetUp(SetUp),
    CreateContainer(Box<CreateContainer>),
    StartContainer {
        container: String,
    },
    DeleteContainer {
        container: String,
    },
    Exec(Box<Exec>),
    Wait {
        container: String,
        process: String,
    },
    Signal(Signal),
    Resize {
        container: String,
        process: String,
        width: u16,
        height: u16,
    },
    CloseStdin {
        container: String,
        process: String,
    },
    Pause {
        container: String,
    },
    Resume {
        container: String,
    },
    Update {
        container: String,
        resources: Box<Resources>,
    },
    Stats {
        container: String,
    },
    Processes {
        container: String,
    },
    OutOfMemory {
        container: String,
    },
    RefreshVolume {
        share: String,
    },
    PutFiles {
        volume: String,
        files: Vec<File>,
    },
    AdjustClock {
        offset: i64,
        step: bool,
    },
    KernelLog,
    PowerOff,
    /// A connection to one of the guest's TCP ports.
    Forward {
        port: u16,
    },
}

/// Makes the guest a pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetUp {
    /// The guest's.
    pub hostname: String,
    /// Settings of the kernel, in any order.
    pub sysctls: Vec<(String, String)>,
    /// The pod's interfaces, as JSON that has been read to its last field: what a network carries is the
    /// host's in any case.
    pub network: Vec<u8>,
    /// In nanoseconds since 1970.
    pub time: u64,
    /// For the random number generator.
    pub seed: Vec<u8>,
    /// The host shares files.
    pub share: bool,
    /// The device of the scratch disk; without one the guest keeps what is written in memory.
    pub scratch: Option<u32>,
}

/// Makes a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateContainer {
    /// The container's name among the host's.
    pub container: String,
    /// Its name in the policy.
    pub name: String,
    /// What it is to be.
    pub configuration: Configuration,
    /// What it is to be made of.
    pub root: Root,
    /// What its first process reads and writes.
    pub streams: Streams,
}

/// What a container's root is made of, by the host's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// A name among what the host shares; empty for none.
    pub share: String,
    /// There are layers that nothing verifies.
    pub plain: bool,
    /// There is a disk of the host's to write on.
    pub writable: bool,
    /// The disk that has the layers.
    pub verified: Option<LayerDisk>,
}

/// A disk with layers, one behind the other, the uppermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDisk {
    /// Which of the guest's devices it is.
    pub device: u32,
    /// It says that its layers are EROFS.
    pub erofs: bool,
    /// How many bytes each layer has, with its hash tree.
    pub parts: Vec<u64>,
}

/// The streams of a process by the host's numbers; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the agent's protocol")]
pub struct Streams {
    pub terminal: bool,
    pub stdin: u32,
    pub stdout: u32,
    pub stderr: u32,
}

/// Runs one more process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// In which container.
    pub container: String,
    /// What it is called from now on.
    pub process: String,
    /// What it is to be.
    pub configuration: HostProcess,
    /// What it reads and writes.
    pub streams: Streams,
}

/// Sends a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// To a process of which container.
    pub container: String,
    /// To which process; its init if empty.
    pub process: String,
    /// By number.
    pub signal: u32,
    /// To all of the container's.
    pub all: bool,
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is in the volume.
    pub path: String,
    /// What is in it.
    pub contents: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Whose it is to be. No host says it: a request that passes has what the policy says.
    pub owner: Owner,
}

impl Request {
    /// What the agent's protocol calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetUp(_) => "SetUp",
            Self::CreateContainer(_) => "CreateContainer",
            Self::StartContainer { .. } => "StartContainer",
            Self::DeleteContainer { .. } => "DeleteContainer",
            Self::Exec(_) => "Exec",
            Self::Wait { .. } => "Wait",
            Self::Signal(_) => "Signal",
            Self::Resize { .. } => "Resize",
            Self::CloseStdin { .. } => "CloseStdin",
            Self::Pause { .. } => "Pause",
            Self::Resume { .. } => "Resume",
            Self::Update { .. } => "Update",
            Self::Stats { .. } => "Stats",
            Self::Processes { .. } => "Processes",
            Self::OutOfMemory { .. } => "OutOfMemory",
            Self::RefreshVolume { .. } => "RefreshVolume",
            Self::PutFiles { .. } => "PutFiles",
            Self::AdjustClock { .. } => "AdjustClock",
            Self::KernelLog => "KernelLog",
            Self::PowerOff => "PowerOff",
            Self::Forward { .. } => "Forward",
        }
    }
}
