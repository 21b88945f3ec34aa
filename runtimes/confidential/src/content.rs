//! What a confidential pod has in place of the host's directories.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::{Context, Mount, Result};
use trefoil_os::apart;
use trefoil_sandbox_vmm::{GuestVolume, HostVolume, LayerDisk, Sources};

use crate::layers::{Layers, Trees};
use crate::volumes;

/// How much trees of layers may take on a node, in bytes.
const MOST_TREES: u64 = 4 << 30;

/// Layers with their trees, and volumes as bytes.
#[derive(Debug)]
pub(crate) struct Content {
    trees: Arc<Trees>,
}

impl Content {
    /// With what is kept of trees below a directory.
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            trees: Arc::new(Trees::new(&state.join("trees"), MOST_TREES)),
        }
    }
}

#[async_trait]
impl Sources for Content {
    async fn layers(&self, mounts: &[Mount]) -> Result<LayerDisk> {
        let (mounts, trees) = (mounts.to_vec(), self.trees.clone());
        apart("layers", move || -> Result<LayerDisk> {
            let layers = Layers::find(&mounts, &trees)?;
            let files = layers.files().map(|file| file.try_clone());
            Ok(LayerDisk {
                files: files
                    .collect::<std::io::Result<_>>()
                    .context(|| "hold a pod's layers")?,
                parts: layers.parts(),
                identity: layers.identity()?.files().to_vec(),
            })
        })
        .await
    }

    fn volume(&self, volume: HostVolume<'_>) -> Result<GuestVolume> {
        volumes::of(volume)
    }
}
