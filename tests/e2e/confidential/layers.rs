//! What a node's owner does to layers: a guest reads nothing of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rig::author::Author;
use rig::command;
use rig::images::{BASE, WEB};
use rig::kubelet::{Manifest, idle};

use super::{Configured, refused_for, run};
use crate::e2e::Env;

/// What the upper layer of the web server's image has, and nothing else.
const PAGE: &str = "Welcome to nginx!";

/// What the base has.
const USER: &str = "default-user";

/// Where containerd's snapshotter keeps layers.
const SNAPSHOTS: &str = "root/io.containerd.snapshotter.v1.erofs/snapshots";

/// The directory with the layer that has this text.
fn layer_with(env: &Env, text: &str) -> Result<PathBuf> {
    let snapshots = env.rig.directory().join(SNAPSHOTS);
    for snapshot in fs::read_dir(&snapshots)? {
        let at = snapshot?.path();
        let content = fs::read(at.join("layer.erofs")).unwrap_or_default();
        if memchr::memmem::find(&content, text.as_bytes()).is_some() {
            return Ok(at);
        }
    }
    anyhow::bail!("no layer in {} has {text:?}", snapshots.display())
}

/// Lets files be changed that containerd has made immutable.
fn unlock(directory: &Path) -> Result<()> {
    for file in fs::read_dir(directory)? {
        let mut chattr = std::process::Command::new("chattr");
        chattr.arg("-i").arg(file?.path());
        // Where the filesystem has no such attribute, no file has it.
        drop(command::run(&mut chattr, &[], Duration::from_secs(60))?);
    }
    Ok(())
}

/// Two snapshots' layers, each in the other's place as long as this is there.
struct Swapped([PathBuf; 2]);

impl Swapped {
    fn swap(one: PathBuf, other: PathBuf) -> Result<Self> {
        unlock(&one)?;
        unlock(&other)?;
        let swapped = Self([one, other]);
        swapped.toggle().context("swapping layers")?;
        Ok(swapped)
    }

    fn toggle(&self) -> Result<()> {
        let [one, other] = &self.0;
        for file in fs::read_dir(one)? {
            let name = file?.file_name();
            if !name.to_string_lossy().starts_with("layer.erofs") {
                continue;
            }
            let aside = one.join("aside");
            fs::rename(one.join(&name), &aside)?;
            fs::rename(other.join(&name), one.join(&name))?;
            fs::rename(&aside, other.join(&name))?;
        }
        Ok(())
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        drop(self.toggle());
    }
}

/// Layers that are another's, in another order, or of another image.
pub fn of_others(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let author = Author::new(&env.rig, &[BASE, WEB])?;
    let manifest = Manifest::of(vec![idle("one", BASE), idle("two", WEB)]);
    let kubelet = run(env, &author, &manifest, &[], None)?;
    let start = |name: &str| -> Result<_> {
        let spec = kubelet.spec(manifest.container(name)?)?;
        kubelet.pod().start(&spec)
    };
    // containerd unpacks an image when a container of it is made.
    for name in ["one", "two"] {
        let made = start(name)?;
        env.rig.crictl(&["rm", "-f", &made.id])?.success()?;
    }
    let swapped = Swapped::swap(layer_with(env, USER)?, layer_with(env, PAGE)?)?;
    refused_for(start("one"), "layer 1 of container one: block ")?;
    // The upper layer is larger than the lower: what is in its place can't be it.
    refused_for(
        start("two"),
        "the policy denies CreateContainer.rootfs.verified.parts[0] (layer-size)",
    )?;
    drop(swapped);
    start("one")?;
    start("two")?;
    kubelet.stop()
}
