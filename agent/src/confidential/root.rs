//! A container's root: layers that are only read, and above them what is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trefoil_core::{Context, Result};
use trefoil_os::detached;

use super::layers::VerifiedDisk;
use super::mounted::{Mounted, make_directory};
use super::scratch::Scratch;
use super::volumes;

/// Where roots are mounted.
const PLACE: &str = "/run/trefoil/roots";

/// A root, which is there until it is removed.
pub(crate) struct Root {
    /// Gone before what it is of.
    root: Mounted,
    container: String,
    _layers: Arc<VerifiedDisk>,
    scratch: Arc<Scratch>,
}

impl Root {
    /// Makes the root of the container of a checked name.
    ///
    /// # Errors
    /// What the kernel says; nothing is left then.
    pub(super) fn make(
        container: &str,
        layers: Arc<VerifiedDisk>,
        scratch: &Arc<Scratch>,
    ) -> Result<Self> {
        let written = written(container, scratch.path());
        // Of one that could not be removed. What is written of a container is nobody else's.
        remove(&written)?;
        let root = mount(container, &layers, &written);
        match root {
            Ok(root) => Ok(Self {
                root,
                container: container.to_owned(),
                _layers: layers,
                scratch: scratch.clone(),
            }),
            Err(why) => {
                if let Err(also) = remove(&written) {
                    log::warn!("{also}");
                }
                Err(why)
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// Takes it down, and what was written.
    ///
    /// # Errors
    /// What the kernel says; it may be tried again.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.root.remove()?;
        forget(&self.container, self.scratch.path())
    }
}

/// Where what is written to a container's root is.
fn written(container: &str, scratch: &Path) -> PathBuf {
    scratch.join("roots").join(container)
}

/// Removes what a container that is gone has written to a scratch filesystem: to its root, and to files of
/// its own.
///
/// # Errors
/// What the kernel says; it may be tried again.
pub(super) fn forget(container: &str, scratch: &Path) -> Result<()> {
    remove(&written(container, scratch))?;
    remove(&volumes::files_of(container, scratch))
}

fn mount(container: &str, layers: &VerifiedDisk, written: &Path) -> Result<Mounted> {
    let (upper, work) = (written.join("upper"), written.join("work"));
    for directory in [&upper, &work] {
        make_directory(directory, 0o755)?;
    }
    let lower: Vec<_> = layers
        .places()
        .map(|place| place.display().to_string())
        .collect();
    let options = [
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
        // What is written is lost with the guest in any case.
        "volatile".to_owned(),
    ];
    let tree = detached::mount("overlay", "overlay", &options)?;
    Mounted::at(Path::new(PLACE).join(container), tree)
}

fn remove(written: &Path) -> Result<()> {
    match fs::remove_dir_all(written) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", written.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_is_gone_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch = directory.path();
        let of = |container| {
            [
                written(container, scratch),
                volumes::files_of(container, scratch),
            ]
        };
        for place in [of("a"), of("b")].concat() {
            fs::create_dir_all(&place).expect("a directory");
            fs::write(place.join("termination-log"), "x").expect("write");
        }
        forget("a", scratch).expect("removed");
        assert!(!of("a").iter().any(|place| place.exists()));
        assert!(of("b").iter().all(|place| place.exists()));
        // What is not there is no reason to fail: not all have files.
        forget("a", scratch).expect("nothing to remove");
    }
}
