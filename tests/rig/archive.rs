//! Images that a trial makes for itself: the base and layers of its own, imported as an archive.
//!
//! What every rig's registry serves is made in [`crate::images`]; these are for content that holds
//! paths of one rig's, or that no other trial needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use trefoil_guest::cache::sha256;
use trefoil_guest::run::output;

use crate::{Rig, images};

/// The layers of the base image, as files, lowest first.
fn base_layers() -> Result<Vec<PathBuf>> {
    let store = images::ensure()?;
    let blob = |digest: &Value| -> Result<PathBuf> {
        let digest = digest.as_str().context("no digest")?;
        Ok(store.join("blobs").join(digest))
    };
    let tags: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(store.join("tags.json"))?)?;
    let (_, name) = images::BASE.split_once('/').context("no repository")?;
    let manifest = blob(tags.get(name).context("no base image")?)?;
    let manifest: Value = serde_json::from_slice(&fs::read(manifest)?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    layers.iter().map(|layer| blob(&layer["digest"])).collect()
}

/// Unpacks the base image's content into a directory that isn't there yet.
pub fn unpack_base(to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("making {}", to.display()))?;
    for layer in base_layers()? {
        output(
            Command::new("tar")
                .args(["--numeric-owner", "-xpf"])
                .arg(layer)
                .arg("-C")
                .arg(to),
        )?;
    }
    Ok(())
}

/// Gives the pods of a rig an image: the base, and the content of directories as layers above it.
/// `scratch` is a directory that isn't there, and is gone afterwards.
pub fn import(rig: &Rig, name: &str, directories: &[PathBuf], scratch: &Path) -> Result<()> {
    let blobs = scratch.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let keep = |content: &[u8]| -> Result<(String, usize)> {
        let digest = sha256(content);
        fs::write(blobs.join(&digest), content)?;
        Ok((format!("sha256:{digest}"), content.len()))
    };
    let mut layers = Vec::new();
    for layer in base_layers()? {
        layers.push(keep(&fs::read(layer)?)?);
    }
    for directory in directories {
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "-cf", "-", "-C"])
            .arg(directory)
            .arg(".");
        layers.push(keep(&output(&mut tar)?)?);
    }
    let digests: Vec<&str> = layers.iter().map(|(digest, _)| digest.as_str()).collect();
    let config = keep(&serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": digests },
    }))?)?;
    let describe = |kind: &str, (digest, size): &(String, usize)| {
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": kind, "digest": digest, "size": size })
    };
    let manifest = keep(&serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config),
        "layers": layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect::<Vec<_>>(),
    }))?)?;
    let mut described = describe("manifest.v1+json", &manifest);
    described["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [described] });
    fs::write(scratch.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        scratch.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let archive = scratch.with_extension("tar");
    output(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(scratch)
            .arg("."),
    )?;
    let arguments = ["images", "import", "--local", &archive.to_string_lossy()];
    let imported = rig.ctr_of_pods(&arguments).and_then(|done| done.success());
    fs::remove_dir_all(scratch)?;
    fs::remove_file(&archive)?;
    imported?;
    rig.has_image(name);
    Ok(())
}
