//! What makes EROFS images: Debian's `mkfs.erofs`, and what has containerd make them.
//!
//! containerd's snapshotter needs 1.7 or later, which Debian 12 doesn't have. It is fetched with all it is
//! linked with, not installed, and started by its own loader.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use trefoil_guest::cache;
use trefoil_guest::debian::{self, Apt, Release};

use crate::Rig;

/// Where the packages have it.
const PROGRAM: &str = "usr/bin/mkfs.erofs";
/// Where the packages have libraries, and the loader of them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What a node is given so that its layers have trees.
const CONFIGURATION: &str = include_str!("../../deploy/containerd/erofs.toml");
/// The line of it that a kernel without the device has containerd fail at.
const TREES: &str = "enable_dmverity = true\n";

/// The directory of Debian 13's unpacked packages; fetched once.
pub fn ensure() -> Result<PathBuf> {
    fetch("erofs-utils", Release::Trixie)
}

/// The same of the newest version.
pub fn ensure_newest() -> Result<PathBuf> {
    fetch("erofs-utils-newest", Release::Sid)
}

fn fetch(name: &str, release: Release) -> Result<PathBuf> {
    // The recipe is the key.
    let recipe: [&[u8]; 1] = [include_bytes!("erofs.rs")];
    cache::ensure(name, &recipe, |out| {
        eprintln!("fetching erofs-utils of Debian's {release:?} (once; cached)");
        let state = out.join("apt");
        let packages = Apt::open(&state, release)?.download_all(&["erofs-utils"])?;
        for package in packages {
            debian::unpack(&package, out)?;
        }
        fs::remove_dir_all(state).context("removing apt's state")
    })
}

/// Gives a rig's containerd the program, and the configuration that a node has for its layers, which counts
/// when it starts the next time. Without dm-verity in the kernel there are no trees.
pub fn configure(rig: &Rig) -> Result<()> {
    let at = rig.directory();
    install(&ensure()?, &at.join("bin/mkfs.erofs"))?;
    let mut text = CONFIGURATION.to_owned();
    if !Path::new("/sys/module/dm_verity").exists() {
        text = text.replace(TREES, "");
    }
    fs::write(at.join("conf.d/erofs.toml"), text).context("configuring containerd's layers")
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
