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

/// A document that allows everything, which is for a simulated TEE alone.
pub const PERMISSIVE: &str = r#"version = "0.1.0"
algorithm = "sha256"

[data]
"policy.json" = '''
{"version": 1, "permissive": true, "sandbox": {"hostname": {"typed": "text"}}, "containers": []}
'''
"#;

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
        Self::with(rig, "")
    }

    /// Has it do so, and give [`PERMISSIVE`] to pods without initdata of their own: clients that make pods for
    /// any runtime bring none.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn permissive(rig: &'a Rig) -> Result<Self> {
        let file = rig.directory().join("initdata.toml");
        fs::write(&file, PERMISSIVE)?;
        Self::with(rig, &format!("initdata = '{}'\n", file.display()))
    }

    fn with(rig: &'a Rig, more: &str) -> Result<Self> {
        let state = state(rig);
        // Where KVM is emulated all takes ten times as long.
        let table = format!(
            "[confidential]\ntee = 'simulated'\nstate = '{}'\nboot-timeout-seconds = 100\n{more}",
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

/// As [`configure`], and layers of microVM pods are such images as well: the difference is what checks them.
///
/// # Errors
/// If it does not come back.
pub fn configure_all(rig: &Rig) -> Result<()> {
    erofs::configure(rig)?;
    let more = "[plugins.'io.containerd.snapshotter.v1.erofs']\n\
                dmverity_mode = 'auto'\n\
                default_size = '64MiB'\n\
                [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.trefoil-vm]\n\
                runtime_type = 'io.containerd.trefoil-vm.v2'\n\
                snapshotter = 'erofs'\n";
    rig.reconfigure(
        "confidential.toml",
        &format!("version = 3\n{more}{HANDLER}"),
    )
}
