//! Reading an image layout's directory.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use trefoil_core::{Context, Error, Result};

use super::Digest;
use super::digest::Verified;
use super::document::Descriptor;

/// The longest index, manifest or configuration, in bytes: what registries take.
const MOST_DOCUMENT: u64 = 4 << 20;

/// An image layout: `index.json`, and `blobs`.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The layout in a directory.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The index that everything begins with. Nothing says what it is to be.
    pub fn index<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.path.join("index.json");
        let doing = || format!("read {}", path.display());
        let file = open(&path).context(doing)?;
        let mut text = Vec::new();
        file.take(MOST_DOCUMENT + 1)
            .read_to_end(&mut text)
            .context(doing)?;
        if text.len() as u64 > MOST_DOCUMENT {
            return Err(too_long(MOST_DOCUMENT + 1).context(doing()));
        }
        serde_json::from_slice(&text).context(doing)
    }

    /// A document, which is what its digest says.
    pub fn document<T: DeserializeOwned>(&self, of: &Descriptor) -> Result<T> {
        let doing = || format!("read {} of the image", of.digest);
        if of.size > MOST_DOCUMENT {
            return Err(too_long(of.size).context(doing()));
        }
        let mut text = Vec::new();
        self.blob(&of.digest, of.size)?
            .read_to_end(&mut text)
            .context(doing)?;
        serde_json::from_slice(&text).context(doing)
    }

    /// A blob, which is compared with its digest as it is read.
    pub fn blob(&self, digest: &Digest, size: u64) -> Result<Verified<File>> {
        let (algorithm, digits) = digest.parts();
        let path = self.path.join("blobs").join(algorithm).join(digits);
        let file = open(&path).context(|| format!("open {} of the image", path.display()))?;
        Ok(Verified::exactly(file, digest, size))
    }
}

fn too_long(length: u64) -> Error {
    Error::invalid(format!(
        "its {length} bytes or more are too many: a document of an image has at most {MOST_DOCUMENT}"
    ))
}

/// Opens a file: not a FIFO, which would have us wait for a writer.
fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is not a file")),
    }
}
