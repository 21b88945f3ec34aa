//! An image layout of layers, as an author has one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trefoil_guest::cache::sha256;

use crate::layers::corpus::{Archive, Case};

/// The image's name.
pub const NAME: &str = "images.test/layers:1";

/// One layer: its archive's digest, and the blob's.
struct Blob {
    archive: String,
    digest: String,
    size: u64,
}

/// Writes an image of one layer for each case, every second one compressed.
pub fn write(directory: &Path, cases: &[Case]) -> Result<Layout> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut layers = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let layer = layer(&blobs, *case, number % 2 == 1);
        layers.push(layer.with_context(|| format!("writing {}", case.0))?);
    }
    let chain = chain(&layers);
    let manifest = manifest(&blobs, &layers)?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest,
            "size": manifest.size,
            "annotations": { "io.containerd.image.name": NAME },
        }],
    });
    fs::write(directory.join("index.json"), index.to_string())?;
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )?;
    Ok(Layout {
        directory: directory.into(),
        chain,
    })
}

/// What was written.
pub struct Layout {
    pub directory: PathBuf,
    /// What containerd calls the snapshot of all layers.
    pub chain: String,
}

impl Layout {
    /// One file of all of it, as containerd imports it.
    pub fn archive(&self) -> Result<PathBuf> {
        let path = self.directory.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf")
            .arg(&path)
            .arg("-C")
            .arg(&self.directory)
            .arg(".");
        ensure!(tar.status()?.success(), "tar has failed");
        Ok(path)
    }
}

fn layer(blobs: &Path, case: Case, compressed: bool) -> Result<Blob> {
    let (plain, packed) = (blobs.join("plain"), blobs.join("packed"));
    let mut to = BufWriter::new(File::create(&plain)?);
    Archive::write(&mut to, case)?;
    to.flush()?;
    let archive = digest(&plain)?;
    let file = match compressed {
        true => {
            let status = Command::new("gzip")
                .args(["-n", "-1"])
                .stdin(File::open(&plain)?)
                .stdout(File::create(&packed)?)
                .status();
            ensure!(
                status.context("starting gzip")?.success(),
                "gzip has failed"
            );
            &packed
        }
        false => &plain,
    };
    let blob = digest(file)?;
    let size = file.metadata()?.len();
    fs::rename(file, blobs.join(&blob))?;
    if compressed {
        fs::remove_file(&plain)?;
    }
    Ok(Blob {
        archive: format!("sha256:{archive}"),
        digest: format!("sha256:{blob}"),
        size,
    })
}

/// A file's digest, by the program for it: it may be long.
fn digest(file: &Path) -> Result<String> {
    let mut sum = Command::new("sha256sum");
    let said = sum
        .stdin(File::open(file)?)
        .stderr(Stdio::inherit())
        .output()
        .context("starting sha256sum")?;
    let said = String::from_utf8(said.stdout)?;
    let digest = said.split_whitespace().next();
    Ok(digest.context("sha256sum says nothing")?.to_owned())
}

fn document(blobs: &Path, document: &Value) -> io::Result<Blob> {
    let text = document.to_string();
    let digest = sha256(text.as_bytes());
    fs::write(blobs.join(&digest), &text)?;
    Ok(Blob {
        archive: String::new(),
        digest: format!("sha256:{digest}"),
        size: text.len() as u64,
    })
}

fn manifest(blobs: &Path, layers: &[Blob]) -> Result<Blob> {
    let archives: Vec<_> = layers.iter().map(|layer| &layer.archive).collect();
    let configuration = document(
        blobs,
        &json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": archives },
        }),
    )?;
    let describe = |number: usize, layer: &Blob| {
        let packed = ["", "+gzip"][number % 2];
        json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{packed}"),
            "digest": layer.digest,
            "size": layer.size,
        })
    };
    let layers: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(number, layer)| describe(number, layer))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": configuration.digest,
            "size": configuration.size,
        },
        "layers": layers,
    });
    Ok(document(blobs, &manifest)?)
}

/// The name of the snapshot of all layers, which is made of the archives' digests.
fn chain(layers: &[Blob]) -> String {
    let archives = layers.iter().map(|layer| layer.archive.clone());
    archives
        .reduce(|below, archive| {
            format!("sha256:{}", sha256(format!("{below} {archive}").as_bytes()))
        })
        .unwrap_or_default()
}
