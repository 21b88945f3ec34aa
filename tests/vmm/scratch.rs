//! Files for a trial, gone with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rig::probe::pattern;

/// A directory; in a test VM it is in memory.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/trefoil-vmm-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of so many bytes with the pattern of `seed`; of holes, if that is the zeroes.
    pub fn disk(&self, name: &str, size: u64, seed: u64) -> Result<PathBuf> {
        use std::io::Write;

        let path = self.0.join(name);
        let mut file = File::create(&path)?;
        if seed == pattern::ZEROES {
            file.set_len(size)?;
            return Ok(path);
        }
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < size {
            let part = buffer.len().min(usize::try_from(size - done)?);
            let part = buffer.get_mut(..part).unwrap_or_default();
            pattern::fill(seed, done, part);
            file.write_all(part)?;
            done += part.len() as u64;
        }
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

/// That a part of a file is the pattern of `seed`.
pub fn check(path: &Path, offset: u64, length: u64, seed: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;

    let file = File::open(path)?;
    let mut buffer = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut buffer, offset)
        .with_context(|| format!("reading {}", path.display()))?;
    if let Err(difference) = pattern::check(seed, offset, &buffer) {
        anyhow::bail!("{} is not the pattern: {difference}", path.display());
    }
    Ok(())
}
