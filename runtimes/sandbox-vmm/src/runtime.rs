//! The runtime: what all microVM pods of a node have in common.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trefoil_core::{Result, Runtime, Sandbox, SandboxConfig};

use trefoil_files::parent::Flush;

use crate::sandbox::MicroVmSandbox;

/// What the node's configuration says of microVMs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The guest's kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// Of which closes of a file that kernel tells.
    pub flush: Flush,
    /// The initramfs that holds the guest's init.
    pub initramfs: PathBuf,
    /// The agent's program, which guests are shown.
    pub agent: PathBuf,
    /// Virtual CPUs of a pod without a limit.
    pub default_cpus: u8,
    /// Memory of a pod without a limit, in MiB.
    pub default_memory: u32,
    /// Memory that the guest's kernel and agent need beside the containers, in MiB.
    pub overhead: u32,
    /// How long a guest may take to be ready.
    pub boot_limit: Duration,
    /// Whether the shim counts as the pod's; it doesn't where the operator gave it a cgroup.
    pub count_shim: bool,
}

/// The runtime of microVM pods.
#[derive(Debug)]
pub(crate) struct MicroVm {
    settings: Settings,
}

impl MicroVm {
    /// A runtime with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Runtime for MicroVm {
    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        let sandbox = MicroVmSandbox::boot(&self.settings, &config).await?;
        Ok(Arc::new(sandbox))
    }
}
