//! Building the targets, which is not like building anything else here: the code says which of its
//! edges were taken, and finds accesses to memory that is not its own.
//!
//! Instrumenting for coverage is a matter of LLVM's options, which any Rust takes. AddressSanitizer
//! is an option of its own that no stable Rust has by name, though its runtime comes with all; so the
//! pinned compiler is told to take it. It is worth that: what a guest may reach is reached through
//! addresses that are computed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trefoil_guest::run;

/// As cargo-fuzz has it: counters at each edge, with a table of where they are, and what is compared.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
];

/// The crates that have targets, from the repository's root.
const CRATES: [&str; 7] = [
    "runtimes/runc",
    "runtimes/sandbox-vmm/vmm",
    "runtimes/sandbox-vmm/files",
    "agent/attestation",
    "lib/policy",
    "lib/verity",
    "shim",
];

/// Where targets are.
fn directories() -> [PathBuf; CRATES.len()] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    CRATES.map(|below| root.join(below).join("fuzz"))
}

/// Has cargo build all targets, and says where they are.
pub fn programs() -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for directory in directories() {
        programs.extend(build(&directory)?);
    }
    programs.sort();
    ensure!(!programs.is_empty(), "there are no targets");
    Ok(programs)
}

/// Sees to it that all targets could be built, which takes a small part of building them: that the locked
/// crates are the right ones, and that they have what they call.
pub fn check() -> Result<()> {
    for directory in directories() {
        let mut check = cargo("check", &directory);
        check
            .arg("--target-dir")
            .arg(target("fuzz-check")?)
            .env("RUSTFLAGS", "--cfg=fuzzing")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // Nothing is linked, and libFuzzer alone takes a minute. By this name, which nobody looks
            // for, its crate is told that somebody else has built it.
            .env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libFuzzer.a");
        succeed(&mut check)?;
    }
    Ok(())
}

/// Runs cargo for what it says to its standard error.
fn succeed(cargo: &mut Command) -> Result<()> {
    let status = cargo
        .stdout(Stdio::null())
        .status()
        .context("starting cargo")?;
    let directory = cargo.get_current_dir().unwrap_or(Path::new("."));
    ensure!(
        status.success(),
        "checking {}: cargo ended with {status}",
        directory.display()
    );
    Ok(())
}

/// cargo with a command for the targets in a directory.
fn cargo(command: &str, directory: &Path) -> Command {
    let mut started = run::cargo();
    started.args([command, "--locked"]).current_dir(directory);
    started
}

/// A place for what cargo makes of the targets.
fn target(name: &str) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    Ok(std::path::absolute(target.join(name))?)
}

fn build(directory: &Path) -> Result<Vec<PathBuf>> {
    let built = cargo("build", directory)
        .args(["--release", "--message-format=json-render-diagnostics"])
        .arg("--target-dir")
        .arg(target("fuzz")?)
        // In place of the flags for a static program, with which a sanitizer does not go.
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("RUSTC_BOOTSTRAP", "1")
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(built.status.success(), "cargo ended with {}", built.status);
    let programs = built
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let message: Value = serde_json::from_slice(line).ok()?;
            Some(message["executable"].as_str()?.into())
        })
        .collect();
    Ok(programs)
}

/// Inputs that a target begins with, if there are any.
pub fn seeds(name: &str) -> Option<PathBuf> {
    directories()
        .into_iter()
        .map(|directory| directory.join("seeds").join(name))
        .find(|path| path.is_dir())
}
