//! A guest that has an agent and a root for containers without a host that shares them: they come in the
//! image.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

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

/// The directories of the root.
const DIRECTORIES: &[&str] = &[
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
];

/// The programs and libraries of the root: where each is, and where a Debian has it.
fn programs() -> Vec<(String, String)> {
    let mut all = vec![("bin/busybox".to_owned(), "usr/bin/busybox".to_owned())];
    for library in LIBRARIES {
        let path = format!("{LIBRARY_DIRECTORY}/{library}");
        all.push((path.clone(), format!("usr/{path}")));
    }
    let loader = format!("usr/{LIBRARY_DIRECTORY}/{LOADER}");
    all.push((format!("lib64/{LOADER}"), loader));
    all
}

fn program(path: &str) -> Result<Vec<u8>> {
    let path = images::root()?.join(path);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Makes the root in a directory, which is made.
pub fn root_in(root: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for (at, path) in programs() {
        let at = root.join(at);
        fs::write(&at, program(&path)?)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
    }
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

fn add_root(archive: &mut Archive) -> Result<()> {
    let root = format!("share/{ROOT}");
    archive.directory(&root, 0o755)?;
    for directory in DIRECTORIES {
        archive.directory(&format!("{root}/{directory}"), 0o755)?;
    }
    archive.file(
        &format!("{root}/etc/passwd"),
        0o644,
        b"root:x:0:0::/:/bin/sh\n",
    )?;
    for applet in APPLETS {
        archive.symlink(&format!("{root}/bin/{applet}"), "busybox")?;
    }
    for (at, path) in programs() {
        archive.file(&format!("{root}/{at}"), 0o755, &program(&path)?)?;
    }
    Ok(())
}
