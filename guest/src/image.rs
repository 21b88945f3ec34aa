//! The guest image: an initramfs that holds the agent, and nothing that the agent doesn't need.
//!
//! It isn't compressed: a kernel that unpacks it spends instructions in every guest's start, and
//! what is saved is space on a node's disk, once. The kernel's memory holds the unpacked files
//! either way.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::cpio::Archive;
use crate::kernel::Comparison;
use crate::run;

const AGENT: &str = "trefoil-agent";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const NAME: &str = "initramfs.img";

/// What a file system is mounted on before anything could make a directory.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "run", "sys"];

/// What must be there before `/dev` is mounted: its name, permissions, major and minor number.
const DEVICES: &[(&str, u32, u32, u32)] = &[
    // The kernel opens it for PID 1, and complains if it can't.
    ("dev/console", 0o600, 5, 1),
    // What the agent opens in its stead where there is none.
    ("dev/null", 0o666, 1, 3),
    // Where the agent says that it couldn't mount something.
    ("dev/kmsg", 0o600, 1, 11),
];

/// The default image, built if anything changed.
pub fn ensure() -> Result<PathBuf> {
    ensure_with(AGENT, NAME)
}

/// An image of this name with a program of this package as its init, built if anything changed.
///
/// Both the program and the image are in `guest` in cargo's target directory. Cargo has a directory
/// of its own there, because the program is built with more flags than usual: in one directory, each
/// would be built anew after the other.
pub fn ensure_with(package: &str, name: &str) -> Result<PathBuf> {
    let directory = target_directory().join("guest");
    let init = read(&build(package, &checkout(), &directory)?)?;
    keep(name, pack(&init)?.finish())
}

/// An image of this name that begins as the default one does, but with another init, and what `more` adds;
/// that is told the agent.
pub fn ensure_around(
    init: &[u8],
    name: &str,
    more: impl FnOnce(&mut Archive, &[u8]) -> Result<()>,
) -> Result<PathBuf> {
    let directory = target_directory().join("guest");
    let agent = read(&build(AGENT, &checkout(), &directory)?)?;
    let mut archive = pack(init)?;
    more(&mut archive, &agent)?;
    keep(name, archive.finish())
}

/// Has an image under a name.
fn keep(name: &str, image: Vec<u8>) -> Result<PathBuf> {
    let directory = target_directory().join("guest");
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

/// Builds the image twice more, from scratch, the second time from a copy of the source in another
/// place, and compares both with [`ensure`]'s.
pub fn verify() -> Result<Comparison> {
    let image = ensure()?;
    let image = fs::read(&image).with_context(|| format!("reading {}", image.display()))?;
    let scratch = cache::directory()?.join(format!("image-verify.{}", std::process::id()));
    let compared = build_again(&scratch).map(|others| {
        others
            .iter()
            .map(|other| compare(&image, other))
            .find(|comparison| *comparison != Comparison::Identical)
            .unwrap_or(Comparison::Identical)
    });
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    compared
}

fn build_again(scratch: &Path) -> Result<[Vec<u8>; 2]> {
    let copy = scratch.join("a-copy/in-another-place");
    copy_source(&checkout(), &copy)?;
    let same_place = build(AGENT, &checkout(), &scratch.join("target"))?;
    // Elsewhere for cargo is also where the source is.
    let other_place = build(AGENT, &copy, &copy.join("target"))?;
    let image = |init: PathBuf| Ok::<_, anyhow::Error>(pack(&read(&init)?)?.finish());
    Ok([image(same_place)?, image(other_place)?])
}

fn compare(one: &[u8], other: &[u8]) -> Comparison {
    if one == other {
        return Comparison::Identical;
    }
    let pairs = one.iter().zip(other);
    Comparison::Differs {
        file: NAME.to_owned(),
        offset: pairs.take_while(|(one, other)| one == other).count(),
    }
}

/// The source that this program was built from.
fn checkout() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory
        .parent()
        .unwrap_or(crate_directory)
        .to_owned()
}

/// Where cargo builds what belongs to the checkout.
fn target_directory() -> PathBuf {
    // Cargo takes a relative one from where it was started, as we are.
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => checkout().join("target"),
    }
}

/// The program of a package, built from `source` with cargo's output in `target`.
fn build(package: &str, source: &Path, target: &Path) -> Result<PathBuf> {
    let target = std::path::absolute(target)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(source)
        .arg("--config")
        .arg(remapping(source)?)
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", package, "--target", TARGET, "--target-dir"])
        .arg(&target)
        // These would replace our flags, and so make another program: not even a static one.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null());
    run::output(&mut build).with_context(|| format!("building {package}"))?;
    Ok(target.join(TARGET).join("release").join(package))
}

/// The configuration that keeps from a program where it was built: the names of source files get
/// into a program by the places of its panics.
///
/// A configuration on cargo's command line adds to the flags of the project's own.
fn remapping(source: &Path) -> Result<String> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let mut flags = Vec::new();
    for (from, to) in [(source, "trefoil"), (&home, "cargo")] {
        let from = from
            .to_str()
            .with_context(|| format!("{} is not UTF-8", from.display()))?;
        // Rust quotes what paths have in them as TOML does.
        flags.push(format!("{:?}", format!("--remap-path-prefix={from}={to}")));
    }
    Ok(format!("target.{TARGET}.rustflags=[{}]", flags.join(",")))
}

fn read(program: &Path) -> Result<Vec<u8>> {
    fs::read(program).with_context(|| format!("reading {}", program.display()))
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

/// Copies what cargo needs of a checkout, and a little more.
fn copy_source(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let mut copy = Command::new("cp");
    copy.arg("--archive");
    let mut found: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry?.path();
        // History, and what cargo marks as made by it.
        if !path.ends_with(".git") && !path.join("CACHEDIR.TAG").exists() {
            found.push(path.into());
        }
    }
    if found.is_empty() {
        bail!("there is no source in {}", from.display());
    }
    run::output(copy.args(found).arg(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_with_its_place() {
        assert_eq!(compare(b"one", b"one"), Comparison::Identical);
        for (other, offset) in [("two", 0), ("once", 2), ("o", 1)] {
            let differs = Comparison::Differs {
                file: NAME.to_owned(),
                offset,
            };
            assert_eq!(compare(b"one", other.as_bytes()), differs);
        }
    }

    #[test]
    fn an_image_is_its_agent_and_little_more() {
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

    #[test]
    fn the_source_is_here() {
        assert!(checkout().join("agent/Cargo.toml").exists());
    }

    #[test]
    fn what_is_copied_is_source() {
        let base = std::env::temp_dir().join(format!("trefoil-copy-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        for directory in [".git", ".cargo", "agent", "built"] {
            fs::create_dir_all(from.join(directory)).unwrap();
        }
        fs::write(from.join("built/CACHEDIR.TAG"), "").unwrap();
        fs::write(from.join(".cargo/config.toml"), "").unwrap();
        copy_source(&from, &to).unwrap();
        assert!(to.join("agent").exists());
        assert!(to.join(".cargo/config.toml").exists());
        assert!(!to.join(".git").exists());
        assert!(!to.join("built").exists());
        fs::remove_dir_all(base).unwrap();
    }
}
