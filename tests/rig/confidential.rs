//! What a rig's node is given to have confidential pods: a simulated TEE, named.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::{Rig, erofs};

/// The shim's configuration.
const DROP_IN: &str = "confidential.toml";

/// containerd's: layers are images.
pub const HANDLER: &str = "\
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.trefoil-confidential]\n\
    runtime_type = 'io.containerd.trefoil-confidential.v2'\n\
    pod_annotations = ['trefoil.dev/*']\n\
    snapshotter = 'erofs'\n";

/// Where the node keeps what is of such pods.
pub fn state(rig: &Rig) -> PathBuf {
    rig.directory().join("state-of-trefoil")
}

/// The node's configuration names the simulated TEE as long as this is there.
#[derive(Debug)]
pub struct Simulated<'a>(&'a Rig);

impl<'a> Simulated<'a> {
    /// Has it do so.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn on(rig: &'a Rig) -> Result<Self> {
        let state = state(rig);
        // Where KVM is emulated all takes ten times as long.
        let table = format!(
            "[confidential]\ntee = 'simulated'\nstate = '{}'\nboot-timeout-seconds = 100\n",
            state.display()
        );
        fs::write(rig.drop_in(DROP_IN), table)?;
        Ok(Self(rig))
    }
}

impl Drop for Simulated<'_> {
    fn drop(&mut self) {
        drop(fs::remove_file(self.0.drop_in(DROP_IN)));
    }
}

/// Has containerd make images of the layers of confidential pods' images.
///
/// # Errors
/// If it does not come back.
pub fn configure(rig: &Rig) -> Result<()> {
    erofs::configure(rig)?;
    let more = "[plugins.'io.containerd.snapshotter.v1.erofs']\ndmverity_mode = 'auto'\n";
    rig.reconfigure(
        "confidential.toml",
        &format!("version = 3\n{more}{HANDLER}"),
    )
}
