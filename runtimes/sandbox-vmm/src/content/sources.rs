//! What a guest that believes nothing of the host gets in place of what the host would share: somebody
//! else's decision ([`Sources`]), carried out here; and whom it may connect to ([`Listener`]).

use std::fmt;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;

use async_trait::async_trait;
use trefoil_agent_protocol::service;
use trefoil_agent_protocol::{EMPTY_FILE_SOURCE, FILES_SOURCE, MEMORY_SOURCE, SCRATCH_SOURCE};
use trefoil_core::{Mount, Result};

/// Decides what a pod's roots and volumes are in its guest.
#[async_trait]
pub trait Sources: fmt::Debug + Send + Sync {
    /// A root's layers, told from the snapshotter's mounts.
    ///
    /// # Errors
    /// What can't be had, with what to set.
    async fn layers(&self, mounts: &[Mount]) -> Result<LayerDisk>;

    /// What is in the guest in place of a volume.
    ///
    /// # Errors
    /// What can't be had, with what to use instead.
    fn volume(&self, volume: HostVolume<'_>) -> Result<GuestVolume>;
}

/// Takes the connections that a guest makes to one port of the host's.
#[async_trait]
pub trait Listener: fmt::Debug + Send + Sync {
    /// The port, on the guest's vsock.
    fn port(&self) -> u32;

    /// Takes a connection, until it ends. It does not block. A guest may make as many as it likes, one every
    /// few milliseconds.
    async fn serve(&self, connection: UnixStream);
}

/// A disk of layers: each an EROFS image with its hash tree behind it, the uppermost first.
#[derive(Debug)]
pub struct LayerDisk {
    /// One after the other they are the disk.
    pub files: Vec<File>,
    /// How many bytes of it are of each layer.
    pub parts: Vec<u64>,
    /// What tells that two roots can have one disk: device and inode of each file.
    pub identity: Vec<(u64, u64)>,
}

/// A file or directory of the host's that a container is configured to have.
#[derive(Clone, Copy, Debug)]
pub struct HostVolume<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// The pod's id.
    pub pod: &'a str,
    /// The container may not change it.
    pub read_only: bool,
}

/// What is in a guest in place of it. Names are the guest's, and the same for all containers of the pod.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestVolume {
    /// A directory that is empty at first, on the scratch disk.
    Scratch(String),
    /// The same in memory.
    Memory(String),
    /// A file that is empty at first, another one for each container.
    EmptyFile(String),
    /// Files, whose bytes are sent: now, and again when the host's have changed.
    Files(String, Vec<service::File>),
}

impl GuestVolume {
    /// How a mount's source names it.
    pub(crate) fn source(&self) -> String {
        let (kind, name) = match self {
            Self::Scratch(name) => (SCRATCH_SOURCE, name),
            Self::Memory(name) => (MEMORY_SOURCE, name),
            Self::EmptyFile(name) => (EMPTY_FILE_SOURCE, name),
            Self::Files(name, _) => (FILES_SOURCE, name),
        };
        format!("{kind}{name}")
    }
}
