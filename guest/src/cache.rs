//! What is expensive to make is made once, outside the work tree, under a key of its inputs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

pub use crate::home::directory;
use crate::progress::Progress;

/// The hexadecimal SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        hex.push_str(&format!("{byte:02x}"));
    }
    hex
}

/// What [`ensure`] would answer, if it has been made.
pub fn find(name: &str, inputs: &[impl AsRef<[u8]>]) -> Result<Option<PathBuf>> {
    let done = path(name, inputs)?;
    Ok(done.is_dir().then_some(done))
}

fn path(name: &str, inputs: &[impl AsRef<[u8]>]) -> Result<PathBuf> {
    let mut key = Vec::new();
    for input in inputs {
        // Each input is hashed by itself, so that no two lists of inputs run into the same key.
        key.extend_from_slice(sha256(input.as_ref()).as_bytes());
    }
    Ok(directory()?.join(format!("{name}-{}", &sha256(&key)[..16])))
}

/// The directory `<name>-<hash of inputs>`, made by `make` if it isn't there yet.
///
/// It is filled under another name and renamed when whole, so that an interrupted build is never
/// taken for a finished one. Two that want the same thing at once wait for each other.
pub fn ensure(
    name: &str,
    inputs: &[impl AsRef<[u8]>],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let base = directory()?;
    fs::create_dir_all(&base).with_context(|| format!("making {}", base.display()))?;
    let done = path(name, inputs)?;
    if done.is_dir() {
        return Ok(done);
    }
    let lock = File::create(base.join(format!("{name}.lock")))?;
    let _lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        // Somebody is at it, who says how far it is, but perhaps elsewhere.
        Err((lock, Errno::EWOULDBLOCK)) => {
            Progress::new(&format!("{name}, made by another process"))
                .of(|| Ok(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?))
                .with_context(|| format!("waiting for another build of {name}"))?
        }
        Err((_, errno)) => return Err(errno).with_context(|| format!("locking {name}")),
    };
    if done.is_dir() {
        return Ok(done);
    }
    let partial = base.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir(&partial)?;
    Progress::new(name)
        .of(|| make(&partial))
        .with_context(|| format!("making {name}"))?;
    fs::rename(&partial, &done).with_context(|| format!("renaming {}", partial.display()))?;
    Ok(done)
}
