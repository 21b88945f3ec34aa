//! Which EROFS images a snapshotter's mounts are of.
//!
//! | containerd | mounts |
//! |---|---|
//! | 2.3 and later | one of `erofs` for each layer, with the option `X-containerd.dmverity=` if there is a tree; an overlay that names them by number. For what is written, before them, one of `ext4`, or else a directory of the overlay's |
//! | 2.2 | the same, without trees |
//! | 2.1 | one, an overlay of the directories that containerd has mounted the layers at: each has its image beside it |

use std::path::{Path, PathBuf};

use trefoil_core::{Error, ErrorKind, Mount, Result};
use trefoil_verity::Sidecar;

/// What containerd calls a layer's file.
const LAYER: &str = "layer.erofs";
/// And where its 2.1 mounts it, beside that.
const MOUNTED: &str = "fs";
const SIDECAR: &str = "X-containerd.dmverity=";

/// A layer's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub path: PathBuf,
    pub sidecar: Where,
}

/// Where it is told what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// It must be there.
    At(PathBuf),
    /// It may be there.
    Perhaps(PathBuf),
}

impl Image {
    fn new(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self {
            path: path.into(),
            sidecar: Where::Perhaps(path.with_file_name(Sidecar::name(&name))),
        }
    }
}

/// The images, the uppermost first.
pub(super) fn images(mounts: &[Mount]) -> Result<Vec<Image>> {
    match mounts {
        [] => Err(no_images("a directory")),
        [mount] if mount.kind == "erofs" => Ok(vec![image(mount)?]),
        [mount] if mount.kind == "overlay" => beside(mount),
        [mount] => Err(no_images(&format!("a mount of type {}", mount.kind))),
        [images @ .., overlay] => stack(images, overlay),
    }
}

fn no_images(what: &str) -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        format!(
            "a confidential pod's images must be unpacked to EROFS, and the snapshotter has made {what} of this one: \
             set snapshotter = 'erofs' for the handler in containerd's configuration, and pull the image again"
        ),
    )
}

fn refused(mount: &Mount, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        format!(
            "a confidential pod can't have a root filesystem with a mount of type {}: {why}",
            mount.kind
        ),
    )
}

/// One layer.
fn image(mount: &Mount) -> Result<Image> {
    if mount.kind != "erofs" {
        return Err(no_images(&format!("a mount of type {}", mount.kind)));
    }
    let path = Path::new(&mount.source);
    if !path.is_absolute() {
        return Err(refused(mount, format!("{:?} is no path", mount.source)));
    }
    let mut image = Image::new(path);
    for option in &mount.options {
        match option.as_str() {
            "loop" | "ro" => {}
            other => match other.strip_prefix(SIDECAR) {
                Some(path) => image.sidecar = Where::At(path.into()),
                None => return Err(refused(mount, format!("it has the option {other}"))),
            },
        }
    }
    Ok(image)
}

/// Layers, and an overlay of all of them.
fn stack(mounts: &[Mount], overlay: &Mount) -> Result<Vec<Image>> {
    let is_written = |mount: &Mount| matches!(mount.kind.as_str(), "ext4" | "xfs");
    let first = usize::from(mounts.first().is_some_and(is_written));
    let images: Vec<_> = mounts[first..].iter().map(image).collect::<Result<_>>()?;
    if images.is_empty() {
        return Err(no_images("one filesystem"));
    }
    names(overlay, first, mounts.len() - 1)?;
    Ok(images)
}

/// Looks whether a mount is of all layers, from one number to another. What else it says is about what is
/// written.
fn names(overlay: &Mount, first: usize, last: usize) -> Result<()> {
    let mut kind = overlay.kind.as_str();
    while let Some(rest) = ["format/", "mkdir/"]
        .iter()
        .find_map(|prefix| kind.strip_prefix(prefix))
    {
        kind = rest;
    }
    let one = format!("{{{{ mount {first} }}}}");
    let lower = match first == last {
        true => format!("lowerdir={one}"),
        false => format!("lowerdir={{{{ overlay {first} {last} }}}}"),
    };
    let mut named = kind == "bind" && overlay.source == one && first == last;
    if !named && kind != "overlay" {
        return Err(refused(overlay, "it is no overlay of the mounts before it"));
    }
    for option in &overlay.options {
        match option.split_once('=') {
            Some(("lowerdir", _)) => named = *option == lower,
            Some(("upperdir" | "workdir" | "X-containerd.mkdir.path", _)) => {}
            None if matches!(option.as_str(), "ro" | "rw" | "rbind") => {}
            Some(("uidmap" | "gidmap", _)) => {
                let why = "the pod has a user namespace, which a confidential pod has no need of";
                return Err(refused(overlay, why));
            }
            _ => return Err(refused(overlay, format!("it has the option {option}"))),
        }
    }
    match named {
        true => Ok(()),
        false => Err(refused(overlay, "it is not of all the mounts before it")),
    }
}

/// The images beside the directories that they are mounted at.
fn beside(overlay: &Mount) -> Result<Vec<Image>> {
    let lower = overlay
        .options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .ok_or_else(|| no_images("directories"))?;
    let beside = |directory: &str| {
        let directory = Path::new(directory);
        let image = directory.with_file_name(LAYER);
        match directory.is_absolute() && directory.ends_with(MOUNTED) && image.is_file() {
            true => Ok(Image::new(&image)),
            false => Err(no_images("directories")),
        }
    };
    lower.split(':').map(beside).collect()
}
