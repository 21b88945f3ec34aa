//! What is read often lies on a block image in the test VM: a program that starts from 9p takes a
//! round trip to the host for every few of its pages.
//!
//! The image is a plain ext4 file system that `mke2fs` fills without root. In the test VM each of
//! its trees is bound over the path it has on the host, so that nothing looks elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use trefoil_guest::cache;
use trefoil_guest::run::output;

/// Makes an image of files and directories; the n-th is at `/n` in it.
pub fn image(paths: &[PathBuf], file: &Path) -> Result<()> {
    let staging = file.with_extension("staging");
    fs::create_dir(&staging)?;
    let mut bytes = 0;
    for (number, path) in paths.iter().enumerate() {
        bytes += size(path)?;
        // Hard links where they can be, else copies.
        let copy = |link: &str| {
            let mut cp = Command::new("cp");
            cp.args([link, "--no-target-directory"])
                .arg(path)
                .arg(staging.join(number.to_string()));
            output(&mut cp)
        };
        copy("-al").or_else(|_| copy("-a"))?;
    }
    // The file system's own needs: inodes, bitmaps, and a file's last block half empty.
    let blocks = bytes / 4096 * 11 / 10 + 4096;
    output(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-O"])
            // It is never written to.
            .args(["^has_journal", "-d"])
            .arg(&staging)
            .arg(file)
            .arg(blocks.to_string()),
    )
    .context("making a block image (package e2fsprogs)")?;
    fs::remove_dir_all(staging).context("removing the links an image was made from")
}

fn size(path: &Path) -> Result<u64> {
    let data =
        fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    if !data.is_dir() {
        return Ok(data.len() + 4096);
    }
    let mut total = 4096;
    for entry in fs::read_dir(path)? {
        total += size(&entry?.path())?;
    }
    Ok(total)
}

/// The image of directories of the cache, which never change once they are there.
pub fn of_cache(directories: &[PathBuf]) -> Result<PathBuf> {
    let mut key = Vec::new();
    for directory in directories {
        let Some(name) = directory.file_name() else {
            bail!("{} is no directory of the cache", directory.display());
        };
        key.extend_from_slice(name.as_encoded_bytes());
        // A cache that was emptied and filled again is another one.
        key.extend_from_slice(&fs::metadata(directory)?.ino().to_le_bytes());
        key.push(0);
    }
    let recipe: [&[u8]; 2] = [include_bytes!("hot.rs"), &key];
    let made = cache::ensure("test-vm-hot", &recipe, |out| {
        image(directories, &out.join("image.ext4"))
    })?;
    Ok(made.join("image.ext4"))
}
