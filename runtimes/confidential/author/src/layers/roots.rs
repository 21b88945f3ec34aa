//! Layers' root hashes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use trefoil_core::{Context, Error, Result};
use trefoil_verity::{Layout, RootHash, Salt};

use super::archive::{Caution, Watched};
use super::blob::Directory;
use super::decompress::{archive, is_compressed};
use super::digest::Verified;
use super::document::{Descriptor, ImageDocument, Manifest};
use super::user_files::Change;
use super::{Choice, Digest, Image, Layer, Mkfs, UserFiles};

/// The most layers: more than an overlay can have.
const MOST_LAYERS: usize = 512;
/// The longest archive, in bytes: what is compressed may be a thousand times longer than it looks.
const MOST_ARCHIVE: u64 = 64 << 30;

/// Reads layers and makes their root hashes, of each one once.
#[derive(Debug)]
pub struct Layers {
    mkfs: Mkfs,
    read: BTreeMap<Key, Known>,
}

/// What a layer is known by: its digest, that of its archive, and whether the one is the other compressed.
type Key = (Digest, Digest, bool);

/// What is known of a layer once it has been read.
#[derive(Debug)]
struct Known {
    layer: Layer,
    caution: Option<Caution>,
    users: Change,
}

impl Layers {
    /// Those that this program makes images of.
    #[must_use]
    pub fn new(mkfs: Mkfs) -> Self {
        Self {
            mkfs,
            read: BTreeMap::new(),
        }
    }

    /// Reads an image of an image layout's directory: all of it is compared with its digests, down to the one of
    /// its manifest, which is answered.
    ///
    /// # Errors
    /// If there is no such image, or a byte of it is not what its digest says.
    pub fn image(&mut self, layout: &Path, choice: &Choice) -> Result<Image> {
        let directory = Directory::new(layout);
        let found = choice.find(&directory)?;
        let manifest: Manifest = directory.document(&found)?;
        let image: ImageDocument = directory.document(&manifest.config)?;
        check(&manifest, &image, choice)?;
        let (mut layers, mut cautions) = (Vec::new(), Vec::new());
        let mut users = UserFiles::default();
        for (layer, archive) in manifest.layers.iter().zip(&image.rootfs.diff_ids) {
            let known = self
                .layer(&directory, layer, archive)
                .map_err(|why| why.context(format!("layer {} of the image", layer.digest)))?;
            layers.push(known.layer);
            known.users.apply(&mut users);
            let caution = known.caution;
            cautions.extend(caution.map(|caution| self.sentence(layer, caution)));
        }
        Ok(Image {
            digest: found.digest,
            config: image.config,
            layers,
            users,
            cautions,
        })
    }

    fn layer(
        &mut self,
        directory: &Directory,
        layer: &Descriptor,
        archive: &Digest,
    ) -> Result<&Known> {
        let compressed = is_compressed(&layer.media_type)?;
        let key = (layer.digest.clone(), archive.clone(), compressed);
        match self.read.entry(key) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                Ok(new.insert(read(&self.mkfs, directory, layer, archive, compressed)?))
            }
        }
    }

    fn sentence(&self, layer: &Descriptor, caution: Caution) -> String {
        let what = match caution {
            Caution::Attributes => "a file with several extended attributes",
            Caution::Fraction => "a file whose time has a fraction of a second",
        };
        let (major, minor) = self.mkfs.version();
        format!(
            "layer {} has {what}, of which versions of erofs-utils make different images: \
             the node is to have {major}.{minor}, as here, when it unpacks the image",
            layer.digest
        )
    }
}

/// Reads a layer: `mkfs.erofs` and who looks for users see the same bytes.
fn read(
    mkfs: &Mkfs,
    directory: &Directory,
    layer: &Descriptor,
    of: &Digest,
    compressed: bool,
) -> Result<Known> {
    let mut blob = directory.blob(&layer.digest, layer.size)?;
    let scratch = tempfile::tempdir().context(|| "make a directory for it")?;
    let image = scratch.path().join("layer.erofs");
    let archive = archive(&mut blob, compressed).context(|| "read it")?;
    let mut archive = Watched::new(Verified::at_most(archive, of, MOST_ARCHIVE));
    let users = mkfs.make(&mut archive, &layer.digest, &image, |archive| {
        Ok(Change::read(archive))
    })?;
    let caution = archive.caution();
    drop(archive);
    // What is compressed may end before its blob does.
    io::copy(&mut blob, &mut io::sink()).context(|| "read it")?;
    Ok(Known {
        layer: root(&image)?,
        caution,
        users,
    })
}

/// What a manifest and a configuration must agree on.
fn check(manifest: &Manifest, image: &ImageDocument, choice: &Choice) -> Result<()> {
    let (layers, archives) = (manifest.layers.len(), image.rootfs.diff_ids.len());
    if layers != archives || layers == 0 || layers > MOST_LAYERS {
        return Err(Error::invalid(format!(
            "the image's manifest has {layers} layers and its configuration {archives}, and there are to be as many, 1 to {MOST_LAYERS}"
        )));
    }
    let architecture = &choice.platform.architecture;
    if image.os != "linux" || image.architecture != *architecture {
        let shown: String = format!("{}/{}", image.os, image.architecture)
            .chars()
            .take(80)
            .collect();
        return Err(Error::invalid(format!(
            "the image is for {shown:?}, not for linux/{architecture}"
        )));
    }
    Ok(())
}

/// The root hash of an EROFS image.
fn root(image: &Path) -> Result<Layer> {
    let doing = || "hash its EROFS image";
    let file = File::open(image).context(doing)?;
    let length = file.metadata().context(doing)?.len();
    let layout = Layout::of_bytes(length)
        .ok_or_else(|| Error::internal(format!("it has {length} bytes")).context(doing()))?;
    Ok(Layer {
        root: tree(file, &layout).context(doing)?,
        data_blocks: layout.data_blocks(),
    })
}

fn tree(data: impl Read, layout: &Layout) -> io::Result<RootHash> {
    trefoil_verity::build(data, layout, &Salt::of_layers(), |_, _| Ok(()))
}
