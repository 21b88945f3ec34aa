//! The programs that are for guests: built as they are released, and so that it doesn't show where.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::kernel::Comparison;
use crate::progress::Progress;
use crate::run;

/// PID 1 of a guest, which its image holds.
pub const INIT: &str = "trefoil-init";

/// What makes containers in a guest, which it finds among its pod's files.
pub const AGENT: &str = "trefoil-agent";

/// The same for confidential guests, whose image holds it: the package, and the feature of it that makes the
/// program another one.
pub const CONFIDENTIAL_AGENT: &str = "trefoil-agent/confidential";

/// The shim, which is for no guest, but which has most crates in common with the agent: built the same
/// way in the same place, these are built once for both.
pub const SHIM: &str = "containerd-shim-trefoil-v2";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The program of a package, built if anything changed.
///
/// It is in `guest` in cargo's target directory. Cargo has a directory of its own there, because it does not
/// see which compiler, this one or the usual, has built what it finds.
pub fn ensure(package: &str) -> Result<PathBuf> {
    build(package, &checkout(), &directory())
}

/// Builds a program once more, from scratch and from a copy of the source in another place, and compares it
/// with [`ensure`]'s.
pub fn verify(package: &str) -> Result<Comparison> {
    let ours = ensure(package)?;
    let scratch = cache::directory()?.join(format!("program-verify.{}", std::process::id()));
    let copy = scratch.join("a-copy/in-another-place");
    let compared = copy_source(&checkout(), &copy)
        // Elsewhere for cargo is also where the source is.
        .and_then(|()| build(package, &copy, &copy.join("target")))
        .and_then(|other| Ok(compare(package, &read(&ours)?, &read(&other)?)));
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    compared
}

fn compare(package: &str, one: &[u8], other: &[u8]) -> Comparison {
    if one == other {
        return Comparison::Identical;
    }
    let pairs = one.iter().zip(other);
    Comparison::Differs {
        file: package.to_owned(),
        offset: pairs.take_while(|(one, other)| one == other).count(),
    }
}

/// Where what is built for guests is kept.
pub(crate) fn directory() -> PathBuf {
    target_directory().join("guest")
}

/// A program's bytes.
pub(crate) fn read(program: &Path) -> Result<Vec<u8>> {
    fs::read(program).with_context(|| format!("reading {}", program.display()))
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
    let (package, feature) = match package.split_once('/') {
        Some((package, feature)) => (package, Some(feature)),
        None => (package, None),
    };
    // Cargo gives both programs one name, and the next build of either would replace the other's.
    let target = match feature {
        Some(feature) => target.join(feature),
        None => target,
    };
    let mut build = run::cargo();
    build
        .current_dir(source)
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", package, "--target", TARGET, "--target-dir"])
        .arg(&target)
        .args(feature.map(|feature| format!("--features={feature}")))
        .env("RUSTC_WRAPPER", checkout().join("guest/placeless-rustc.sh"))
        .env("TREFOIL_SOURCE", source)
        .env("TREFOIL_TARGET", &target)
        .env("TREFOIL_CARGO_HOME", cargo_home()?)
        // These would replace our flags, and so make another program: not even a static one.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null());
    // From scratch it takes as long as it never does otherwise.
    let which = if source == checkout() {
        "build"
    } else {
        "second build"
    };
    Progress::new(&format!("{which} of {package}"))
        .of(|| run::output(&mut build))
        .with_context(|| format!("building {package}"))?;
    Ok(target.join(TARGET).join("release").join(package))
}

/// Where cargo keeps the source of other people's crates.
fn cargo_home() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    })
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
        assert_eq!(compare("p", b"one", b"one"), Comparison::Identical);
        for (other, offset) in [("two", 0), ("once", 2), ("o", 1)] {
            let differs = Comparison::Differs {
                file: "p".to_owned(),
                offset,
            };
            assert_eq!(compare("p", b"one", other.as_bytes()), differs);
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
