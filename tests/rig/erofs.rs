//! What makes EROFS images: Debian 13's `mkfs.erofs`.
//!
//! containerd's snapshotter needs 1.7 or later, which Debian 12 doesn't have. It is fetched with all it is
//! linked with, not installed, and started by its own loader.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use trefoil_guest::cache;
use trefoil_guest::debian::{self, Apt, Release};

/// Where the packages have it.
const PROGRAM: &str = "usr/bin/mkfs.erofs";
/// Where the packages have libraries, and the loader of them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The directory of the unpacked packages; fetched once.
pub fn ensure() -> Result<PathBuf> {
    // The recipe is the key.
    let recipe: [&[u8]; 1] = [include_bytes!("erofs.rs")];
    cache::ensure("erofs-utils", &recipe, |out| {
        eprintln!("fetching Debian 13's erofs-utils (once; cached)");
        let state = out.join("apt");
        let packages = Apt::open(&state, Release::Trixie)?.download_all(&["erofs-utils"])?;
        for package in packages {
            debian::unpack(&package, out)?;
        }
        fs::remove_dir_all(state).context("removing apt's state")
    })
}

/// Writes a program that starts it.
pub fn install(unpacked: &Path, program: &Path) -> Result<()> {
    let libraries = unpacked.join(LIBRARIES);
    let text = format!(
        "#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} {} \"$@\"\n",
        unpacked.join(PROGRAM).display(),
        libraries = libraries.display()
    );
    fs::write(program, text)?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
