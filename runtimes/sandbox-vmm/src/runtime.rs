//! The runtime: what all microVM pods of a node have in common.

use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::{Result, Runtime, Sandbox, SandboxConfig};

use crate::sandbox::MicroVmSandbox;
use crate::settings::Settings;

/// The runtime of pods in machines of one kind.
#[derive(Debug)]
pub struct MicroVm {
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
