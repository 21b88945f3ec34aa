//! The guest image: an initramfs that holds the guest's init, and nothing that it doesn't need.
//!
//! It isn't compressed: a kernel that unpacks it spends instructions in every guest's start, and
//! what is saved is space on a node's disk, once. The kernel's memory holds the unpacked files
//! either way.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::program::{self, AGENT, CONFIDENTIAL_AGENT, INIT};

const NAME: &str = "initramfs.img";

/// What a file system is mounted on before anything could make a directory.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "run", "sys"];

/// What must be there before `/dev` is mounted: its name, permissions, major and minor number.
const DEVICES: &[(&str, u32, u32, u32)] = &[
    // The kernel opens it for PID 1, and complains if it can't.
    ("dev/console", 0o600, 5, 1),
    // What the init opens in its stead where there is none.
    ("dev/null", 0o666, 1, 3),
    // Where the init says that it couldn't mount something.
    ("dev/kmsg", 0o600, 1, 11),
];

/// The default image, built if anything changed.
pub fn ensure() -> Result<PathBuf> {
    ensure_with(INIT, NAME)
}

/// An image of this name with a program of this package as its init, built if anything changed. It is
/// where the program is, see [`program::ensure`].
pub fn ensure_with(package: &str, name: &str) -> Result<PathBuf> {
    let init = program::read(&program::ensure(package)?)?;
    keep(name, pack(&init)?.finish())
}

/// The image of confidential guests, which are told of no program: the agent is in it.
pub fn ensure_confidential() -> Result<PathBuf> {
    let mut archive = pack(&program::read(&program::ensure(INIT)?)?)?;
    let agent = program::read(&program::ensure(CONFIDENTIAL_AGENT)?)?;
    archive.file("agent", 0o755, &agent)?;
    keep("confidential.img", archive.finish())
}

/// The programs that are for guests.
pub struct Programs {
    /// [`INIT`].
    pub init: Vec<u8>,
    /// [`AGENT`].
    pub agent: Vec<u8>,
}

/// An image of this name that begins as the default one does, but with another init, and what `more` adds.
pub fn ensure_around(
    init: &[u8],
    name: &str,
    more: impl FnOnce(&mut Archive, &Programs) -> Result<()>,
) -> Result<PathBuf> {
    let programs = Programs {
        init: program::read(&program::ensure(INIT)?)?,
        agent: program::read(&program::ensure(AGENT)?)?,
    };
    let mut archive = pack(init)?;
    more(&mut archive, &programs)?;
    keep(name, archive.finish())
}

/// Has an image under a name.
fn keep(name: &str, image: Vec<u8>) -> Result<PathBuf> {
    let directory = program::directory();
    let path = directory.join(name);
    // Left alone if it is the same: others may be reading it, and its age tells of a change.
    if fs::read(&path).is_ok_and(|old| old == image) {
        return Ok(path);
    }
    let partial = directory.join(format!("{name}.{}", std::process::id()));
    fs::write(&partial, image).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The initramfs with an init.
fn pack(init: &[u8]) -> Result<Archive> {
    let mut archive = Archive::new();
    for path in MOUNT_POINTS {
        archive.directory(path, 0o755)?;
    }
    for &(path, mode, major, minor) in DEVICES {
        archive.character_device(path, mode, major, minor)?;
    }
    archive.file("init", 0o755, init)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_its_init_and_little_more() {
        let image = pack(&[7; 10_000]).unwrap().finish();
        assert!((10_000..12_000).contains(&image.len()), "{}", image.len());
        let holds = |name: &str| {
            let name = name.as_bytes();
            image.windows(name.len()).any(|part| part == name)
        };
        for name in ["init\0", "dev/console\0", "proc\0", "sys\0", "run\0"] {
            assert!(holds(name), "{name}");
        }
    }
}
