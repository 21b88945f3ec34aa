//! A container's layers as the devices that a guest checks: each an EROFS image with its dm-verity tree behind
//! it.
//!
//! containerd from 2.3 on makes the tree with the image, once for all pods of the node. Where it doesn't, we
//! make it, once as well, and keep it in [`Trees`]. Nothing here is trusted by a guest: it has the root hashes
//! from its policy, and finds what is not theirs when it reads it.

mod behind;
mod mounts;
mod trees;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trefoil_core::{Context, Error, Mount, Result};

pub use trees::Trees;

use mounts::Image;

/// The layers of a root filesystem, the uppermost first. What the snapshotter has prepared to be written to is
/// not among them: a confidential pod writes to its own, encrypted disk.
#[derive(Debug)]
pub struct Layers {
    layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Data, superblock and tree: all in one file, or the first in one and the others in a second.
    files: Vec<File>,
    /// Their length together, in bytes.
    length: u64,
}

/// Which layers they are: two roots with equal ones can have the same device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Vec<(u64, u64)>);

impl Identity {
    /// The numbers.
    #[must_use]
    pub fn files(&self) -> &[(u64, u64)] {
        &self.0
    }
}

impl Layers {
    /// Finds the layers of a root filesystem that the snapshotter describes by `mounts`, and makes the trees
    /// that are missing. This takes about a second for a gigabyte of those; call it where that is no harm.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::Unimplemented`] for a root that is not of EROFS images, with what to set in
    /// containerd's configuration; what is wrong with an image or its tree.
    pub fn find(mounts: &[Mount], trees: &Trees) -> Result<Self> {
        let images = mounts::images(mounts)?;
        let layers = images.iter().map(|image| {
            open(image, trees).map_err(|why| why.context(format!("layer {}", image.path.display())))
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// The files of all layers: one after the other they are the device. They stay what they are while they
    /// are open, also if they are removed; a path to one is that of its descriptor.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.layers.iter().flat_map(|layer| &layer.files)
    }

    /// How many bytes of the device are of each layer.
    #[must_use]
    pub fn parts(&self) -> Vec<u64> {
        self.layers.iter().map(|layer| layer.length).collect()
    }

    /// Which layers they are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn identity(&self) -> Result<Identity> {
        let files = self.files().map(|file| {
            let metadata = file.metadata().context(|| "look at a layer")?;
            Ok((metadata.dev(), metadata.ino()))
        });
        Ok(Identity(files.collect::<Result<_>>()?))
    }
}

/// Opens an image with its tree.
fn open(image: &Image, trees: &Trees) -> Result<Layer> {
    let file = open_file(&image.path)?;
    match behind::sidecar(image)? {
        Some(sidecar) => behind::layer(file, &sidecar),
        None => trees.layer(file, &image.path),
    }
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).context(|| "open it")?;
    match file.metadata().context(|| "open it")?.is_file() {
        true => Ok(file),
        false => Err(Error::invalid("it is not a file")),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
