//! Image layouts with the registry's images, for who has no registry.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::images;

/// Writes an image layout with some of the images that the registry serves, by the names that pods have for
/// them.
pub(crate) fn write(names: &[&str], directory: &Path) -> Result<()> {
    let images = images::ensure()?;
    let tags: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(images.join("tags.json"))?)?;
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let copy = |digest: &str| -> Result<Vec<u8>> {
        let content = fs::read(images.join("blobs").join(digest))?;
        let hex = digest.strip_prefix("sha256:").context("another digest")?;
        fs::write(blobs.join(hex), &content)?;
        Ok(content)
    };
    let mut listed = Vec::new();
    for name in names {
        let (_, repository) = name.split_once('/').context("a name without a registry")?;
        let digest = tags
            .get(repository)
            .with_context(|| format!("there is no image {name}"))?;
        let content = copy(digest)?;
        let manifest: Value = serde_json::from_slice(&content)?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in layers.chain([&manifest["config"]]) {
            copy(blob["digest"].as_str().context("a blob without a digest")?)?;
        }
        listed.push(json!({
            "mediaType": manifest["mediaType"],
            "digest": digest,
            "size": content.len(),
            "annotations": { "org.opencontainers.image.ref.name": name },
        }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": listed });
    fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(directory.join("oci-layout"), serde_json::to_vec(&version)?)?;
    Ok(())
}
