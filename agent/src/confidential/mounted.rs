//! A mount that goes with what it is for.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use trefoil_core::{Context, Result};
use trefoil_os::detached::Tree;

/// A mount in a directory of its own. Both go when this is dropped.
#[derive(Debug)]
pub(super) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a tree in a directory, which is made.
    ///
    /// # Errors
    /// What the kernel says; nothing is left then.
    pub(super) fn at(place: PathBuf, tree: Tree) -> Result<Self> {
        make_directory(&place, 0o700)?;
        let mounted = Self(place);
        tree.attach(&mounted.0)?;
        Ok(mounted)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes it away; it may be tried again.
    ///
    /// # Errors
    /// What the kernel says: it is in use, most of all.
    pub(super) fn remove(&self) -> Result<()> {
        match umount2(&self.0, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(why) => return Err(why).context(|| format!("unmount {}", self.0.display())),
        }
        match fs::remove_dir(&self.0) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(why).context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(why) = self.remove() {
            log::warn!("{why}");
        }
    }
}

/// Makes a directory, and those above it.
///
/// # Errors
/// What the kernel says.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("make {}", path.display()))
}
