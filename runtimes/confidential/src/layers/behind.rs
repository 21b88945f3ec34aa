//! Trees that containerd has made, behind the images.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use trefoil_core::{Context, Error, Result};
use trefoil_verity::{BLOCK, Layout, Salt, Sidecar, Superblock};

use super::mounts::{Image, Where};
use super::{Layer, open_file};

/// What containerd says about an image's tree, if it has made one.
pub(super) fn sidecar(image: &Image) -> Result<Option<Sidecar>> {
    let (path, needed) = match &image.sidecar {
        Where::At(path) => (path, true),
        Where::Perhaps(path) => (path, false),
    };
    match read(path) {
        Err(why) if !needed && why.kind() == io::ErrorKind::NotFound => Ok(None),
        read => {
            let doing = || format!("read {}", path.display());
            let text = read.context(doing)?;
            Sidecar::read(&text).context(doing).map(Some)
        }
    }
}

/// Reads no more than shows that it is too long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match File::open(path)? {
        file if file.metadata()?.is_file() => file.take(Sidecar::bound()).read_to_end(&mut text)?,
        _ => return Err(io::Error::other("it is not a file")),
    };
    Ok(text)
}

/// An image with the tree that is told of, which is looked at no closer than to tell the node's owner what a
/// guest would find later.
pub(super) fn layer(file: File, sidecar: &Sidecar) -> Result<Layer> {
    let (length, expected) = (
        file.metadata().context(|| "open it")?.len(),
        sidecar.layout.device_bytes(),
    );
    if length != expected {
        return Err(Error::precondition(format!(
            "it has {length} bytes, and with its dm-verity tree it is to have {expected}: remove the image and pull it again"
        )));
    }
    check(&file, &sidecar.layout)?;
    Ok(Layer {
        files: vec![file],
        length,
    })
}

/// Looks whether a superblock is the one of a layout.
fn check(file: &File, layout: &Layout) -> Result<()> {
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, layout.superblock_offset())
        .context(|| "read its superblock")?;
    let superblock =
        Superblock::read(&block).map_err(|why| Error::precondition(why.to_string()))?;
    match superblock.data_blocks == layout.data_blocks() && superblock.salt == Salt::of_layers() {
        true => Ok(()),
        false => Err(Error::precondition(
            "its dm-verity superblock has another salt or number of blocks than containerd's",
        )),
    }
}

/// Opens a second file of a layer: superblock and tree.
pub(super) fn open_tree(path: &Path, layout: &Layout) -> Result<File> {
    let file = open_file(path)?;
    let length = file.metadata().context(|| "open it")?.len();
    if length != layout.device_bytes() - layout.superblock_offset() {
        return Err(Error::precondition(format!("its tree has {length} bytes")));
    }
    Ok(file)
}
