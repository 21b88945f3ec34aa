//! What is shared.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use trefoil_core::{Context, Error, ErrorKind, Mount, Result};
use trefoil_os::detached::{self, Depth};
use trefoil_os::loops::Loop;

/// What the server's mounts are for: nothing of them is run, opened as a device or followed.
const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

/// A directory with all below it, or one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it comes from.
    pub source: Source,
    /// The guest can't change it.
    pub read_only: bool,
    /// Who else may change it.
    pub changes: Changes,
}

/// Where a tree comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What is at a path of the host, a directory or a file. A symbolic link at its end is followed.
    Path {
        /// The path, absolute.
        path: PathBuf,
        /// With what is mounted below it now (`rbind`).
        submounts: bool,
    },
    /// A root filesystem as a snapshotter describes it, in one mount: an overlay of any number of
    /// layers, or a directory.
    Mount(Mount),
    /// A root filesystem of images below a directory: filesystems that are only read, the uppermost
    /// first, and where what is written goes.
    Layers {
        /// The images; those with the option `loop` are files.
        layers: Vec<Mount>,
        /// The upper directory of their overlay.
        upper: PathBuf,
        /// Its work directory.
        work: PathBuf,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, .. } => path.display().fmt(formatter),
            Self::Mount(mount) => formatter.write_str(&mount.source),
            Self::Layers { upper, .. } => upper.display().fmt(formatter),
        }
    }
}

/// Opens what is at a path of the host, to mount it. With what is mounted below, it takes the thread to a
/// mount namespace of its own, which has all mounts of the host's but those of mount namespaces (snapd's,
/// on Ubuntu): these the kernel lets nobody attach where they might lead around in a circle.
pub(crate) fn open_source(path: &Path, submounts: bool) -> Result<File> {
    if !path.is_absolute() {
        let path = path.display();
        return Err(Error::invalid(format!("{path} is not an absolute path")));
    }
    if submounts {
        unshare(CloneFlags::CLONE_NEWNS).context(|| "see the host's mounts")?;
    }
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .context(|| format!("open {} to mount it", path.display()))
}

/// Who may change a tree while it is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Changes {
    /// The host too: what it changes is seen in the guest about a second later.
    Anybody,
    /// Only the guest, as a container's own root filesystem: the guest's kernel keeps what it knows
    /// for as long as it likes.
    GuestOnly,
}

/// How the server shows a tree to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Shown {
    /// Who may change it.
    pub changes: Changes,
    /// The guest can't.
    pub read_only: bool,
    /// How many directories of its filesystem are above it; counts among trees of one filesystem.
    pub depth: u16,
}

impl Tree {
    /// Mounts it nowhere yet. It may take the thread to a mount namespace of its own.
    pub(crate) fn mount(&self) -> Result<detached::Tree> {
        let tree = match &self.source {
            Source::Path { path, submounts } => {
                return self.mount_at(&open_source(path, *submounts)?, *submounts);
            }
            Source::Mount(mount) if !mount.target.trim_matches('/').is_empty() => {
                return Err(Error::new(
                    ErrorKind::Unimplemented,
                    format!(
                        "a root filesystem with {} at {}, below its root, can't be shared",
                        mount.kind, mount.target
                    ),
                ));
            }
            Source::Mount(mount) => detached::mount(&mount.kind, &mount.source, &mount.options)?,
            Source::Layers {
                layers,
                upper,
                work,
            } => overlay(layers, upper, work)?,
        };
        self.confine(tree)
    }

    /// As [`Tree::mount`], of a directory or a file that is open.
    pub(crate) fn mount_at(&self, file: &File, submounts: bool) -> Result<detached::Tree> {
        let depth = match submounts {
            true => Depth::All,
            false => Depth::One,
        };
        let here = Path::new("");
        let tree = detached::Tree::copy_at(file.as_fd(), here, depth)
            .context(|| format!("copy the mount of {}", self.source))?;
        if !tree.is_directory()? && !tree.is_file()? {
            return Err(Error::new(
                ErrorKind::Unimplemented,
                format!(
                    "{} is neither a directory nor a file, and nothing else of the host's is the same \
                     in a guest",
                    self.source
                ),
            ));
        }
        self.confine(tree)
    }

    fn confine(&self, tree: detached::Tree) -> Result<detached::Tree> {
        let read_only = match self.read_only {
            true => libc::MOUNT_ATTR_RDONLY,
            false => 0,
        };
        tree.add_attributes(ATTRIBUTES | read_only, Depth::All)?;
        tree.make_private(Depth::All)?;
        Ok(tree)
    }
}

/// Mounts the filesystem of a file or a block device.
fn mount_image(image: &Mount) -> Result<detached::Tree> {
    let (looped, options): (Vec<_>, Vec<_>) =
        image.options.iter().partition(|&option| option == "loop");
    if looped.is_empty() {
        return Ok(detached::mount(&image.kind, &image.source, &options)?);
    }
    // The device lives on with the mount.
    let device = Loop::of(Path::new(&image.source))?;
    let source = device.path().display().to_string();
    Ok(detached::mount(&image.kind, &source, &options)?)
}

/// Where layers are mounted while their overlay is made: a directory that everybody has and no layer is in.
const LAYERS: &str = "/proc";

/// Makes an overlay of filesystems, which are mounted nowhere else: the kernel keeps them with it.
///
/// It takes the thread to a mount namespace of its own: an overlay is told its layers by their paths.
fn overlay(layers: &[Mount], upper: &Path, work: &Path) -> Result<detached::Tree> {
    let doing = || "make a place for layers";
    unshare(CloneFlags::CLONE_NEWNS).context(doing)?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context(doing)?;
    mount(Some("tmpfs"), LAYERS, Some("tmpfs"), MsFlags::empty(), none).context(doing)?;
    let mut lower = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let place = Path::new(LAYERS).join(number.to_string());
        std::fs::create_dir(&place).context(doing)?;
        mount_image(layer)?.attach(&place)?;
        lower.push(place.display().to_string());
    }
    let options = [
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    Ok(detached::mount("overlay", "overlay", &options)?)
}
