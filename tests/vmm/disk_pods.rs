//! A pod of the microVM runtime's whose machine has no file server: all that it has of the host is on disks.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::pod_guest;
use serde_json::json;
use tokio::time::timeout;
use trefoil_core::{
    ContainerConfig, ErrorKind, Mount, Runtime as _, RuntimeOptions, Sandbox, SandboxConfig, Stdio,
};
use trefoil_sandbox_vmm::{MicroVm, Profile, Settings};

use crate::vmm::pod::configuration;
use crate::vmm::scratch::Scratch;
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[("disk_pods::container", container)];

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How large the root is.
const ROOT: &str = "32M";

/// A container runs from a block device, and what is the host's directories is refused.
fn container(setting: &Setting) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let scratch = Scratch::new()?;
    let disk = scratch.path().join("root.ext4");
    make_root(scratch.path(), &disk)?;
    runtime.block_on(async {
        let sandbox = boot(setting, scratch.path()).await?;
        let outcome = timeout(LIMIT, with(&*sandbox, scratch.path(), &disk)).await;
        let deleted = sandbox.delete().await;
        outcome.context("a container takes too long")??;
        Ok(deleted?)
    })
}

/// Boots a pod's machine until its agent is ready.
async fn boot(setting: &Setting, bundle: &Path) -> Result<Arc<dyn Sandbox>> {
    let settings = Settings {
        profile: Profile::of_disks(setting.images.kernel.clone(), setting.pod.clone()),
        default_cpus: 1,
        default_memory: 192,
        overhead: 40,
        boot_limit: LIMIT,
        count_shim: false,
    };
    let config = SandboxConfig {
        id: "disks".into(),
        bundle: bundle.to_owned(),
        hostname: "of-disks".into(),
        cgroups_path: Some("/trefoil-disk-pods".into()),
        ..SandboxConfig::default()
    };
    Ok(MicroVm::new(settings).create_sandbox(config).await?)
}

async fn with(sandbox: &dyn Sandbox, bundle: &Path, disk: &Path) -> Result<()> {
    let mount = |kind: &str, source: &Path| Mount {
        kind: kind.into(),
        source: source.display().to_string(),
        target: String::new(),
        options: Vec::new(),
    };
    let script =
        "[ $(hostname) = of-disks ] && echo more > /file && [ $(cat /file) = more ] && exit 7";
    let config = |rootfs| -> Result<ContainerConfig> {
        let mut spec = configuration(script);
        // The last one is a volume of the host's.
        let mounts = spec["mounts"].as_array_mut().context("mounts")?;
        mounts.retain(|mount| mount["type"] != "bind");
        Ok(ContainerConfig {
            id: "c".into(),
            bundle: bundle.to_owned(),
            spec: Arc::new(serde_json::from_value(spec)?),
            rootfs: vec![rootfs],
            stdio: Stdio::default(),
            options: RuntimeOptions::default(),
        })
    };
    let container = sandbox
        .create_container(config(mount("ext4", disk))?)
        .await?;
    container.start().await?;
    let ended = container.init().wait().await;
    ensure!(ended.code == 7, "it ended with {}", ended.code);
    container.delete().await?;

    let directory = bundle.join("root");
    let bind = mount("bind", &directory);
    let mut with_volume = config(mount("ext4", disk))?;
    let mut spec = serde_json::to_value(&*with_volume.spec)?;
    let volume = json!({"destination": "/volume", "type": "bind", "source": directory, "options": ["rbind"]});
    let mounts = spec["mounts"].as_array_mut().context("mounts")?;
    mounts.push(volume);
    with_volume.spec = Arc::new(serde_json::from_value(spec)?);
    for (config, what) in [
        (config(bind)?, "the root filesystem "),
        (with_volume, "the volume "),
    ] {
        let refused = sandbox.create_container(config).await;
        let why = refused.err().context("it should be refused")?;
        let said = why.to_string();
        ensure!(
            why.kind() == ErrorKind::Unimplemented
                && said.contains(what)
                && said.contains("can't be had: the pod's machine has disks only"),
            "{said}"
        );
    }
    Ok(())
}

/// A filesystem with what a shell needs.
fn make_root(scratch: &Path, disk: &Path) -> Result<()> {
    let root = scratch.join("root");
    pod_guest::root_in(&root)?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .args([&root, disk])
        .arg(ROOT)
        .status()
        .context("starting mkfs.ext4")?;
    ensure!(made.success(), "mkfs.ext4 ended with {made}");
    fs::metadata(disk).context("making a disk").map(drop)
}
