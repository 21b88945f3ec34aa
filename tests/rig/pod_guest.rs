//! A guest that has an agent and a root for containers without a host that shares them: they come in the
//! image.

use std::fs;

use anyhow::{Context, Result};
use trefoil_guest::{cache, cpio::Archive, image};

use crate::images;

/// What the agent knows the root by.
pub const ROOT: &str = "root";

/// A volume with one file, `greeting`.
pub const VOLUME: &str = "volume";

/// A file of the volume's that the agent is killed for, once there is one.
pub const FATAL: &str = "fatal";

/// Of busybox.
const APPLETS: &[&str] = &[
    "cat", "dd", "echo", "hostname", "id", "kill", "ls", "nc", "ps", "sh", "sleep", "stty", "true",
    "wc",
];

/// What busybox is linked to.
const LIBRARIES: &[&str] = &["libc.so.6", "libresolv.so.2"];

const LIBRARY_DIRECTORY: &str = "lib/x86_64-linux-gnu";

const LOADER: &str = "ld-linux-x86-64.so.2";

/// The image, made if anything changed.
pub fn image() -> Result<std::path::PathBuf> {
    let scratch = cache::directory()?.join(format!("planter.{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let planter = images::compile(&scratch, "planter", include_str!("programs/planter.c"))
        .and_then(|program| fs::read(program).context("reading the planter"));
    fs::remove_dir_all(&scratch)?;
    image::ensure_around(&planter?, "pod.img", |archive, programs| {
        archive.file("trefoil-init", 0o755, &programs.init)?;
        archive.file("agent", 0o755, &programs.agent)?;
        archive.directory("share", 0o755)?;
        add_root(archive)?;
        let volume = format!("share/{VOLUME}");
        archive.directory(&volume, 0o777)?;
        archive.file(&format!("{volume}/greeting"), 0o644, b"hello\n")
    })
}

fn add_root(archive: &mut Archive) -> Result<()> {
    let debian = images::root()?;
    let read = |path: &str| {
        let path = debian.join(path);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let root = format!("share/{ROOT}");
    archive.directory(&root, 0o755)?;
    for directory in [
        "bin",
        "dev",
        "etc",
        "lib",
        LIBRARY_DIRECTORY,
        "lib64",
        "proc",
        "sys",
        "tmp",
        "volume",
    ] {
        archive.directory(&format!("{root}/{directory}"), 0o755)?;
    }
    archive.file(
        &format!("{root}/etc/passwd"),
        0o644,
        b"root:x:0:0::/:/bin/sh\n",
    )?;
    archive.file(
        &format!("{root}/bin/busybox"),
        0o755,
        &read("usr/bin/busybox")?,
    )?;
    for applet in APPLETS {
        archive.symlink(&format!("{root}/bin/{applet}"), "busybox")?;
    }
    for library in LIBRARIES {
        let content = read(&format!("usr/{LIBRARY_DIRECTORY}/{library}"))?;
        let path = format!("{root}/{LIBRARY_DIRECTORY}/{library}");
        archive.file(&path, 0o755, &content)?;
    }
    let loader = read(&format!("usr/{LIBRARY_DIRECTORY}/{LOADER}"))?;
    archive.file(&format!("{root}/lib64/{LOADER}"), 0o755, &loader)
}
