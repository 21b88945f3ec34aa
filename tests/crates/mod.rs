//! Tests of the crates that mean something else on another machine, run in the test VM: those of
//! cgroups and of the runc runtime, on cgroup v2 and Debian's kernel, the ones that need systemd, under
//! it, and those of a microVM's network, as what it asks of the kernel are modules there.
//!
//!     trefoil-test crates [argument of the test programs]...

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::cache;
use rig::test_vm::{TestVm, show};
use serde_json::Value;
use trefoil_guest::run;

const PACKAGES: [&str; 4] = [
    "trefoil-cgroups",
    "trefoil-runc",
    "trefoil-netlink",
    "trefoil-network",
];

/// They take a fraction of it.
const LIMIT: Duration = Duration::from_secs(12 * 60);

/// How many cases each property test takes: what they compute is the same on any kernel.
const PROPERTIES: (&str, &str) = ("PROPTEST_CASES", "16");

/// How many hostile roots, and how many while something changes places: on the host there
/// are thousands, and what is different here is not the roots. And how long one may take.
const HOSTILE: [(&str, &str); 3] = [
    ("HOSTILE_ROOTS", "100"),
    ("HOSTILE_RACES", "24"),
    ("HOSTILE_SECONDS", "120"),
];

pub fn main() -> Result<ExitCode> {
    let programs = test_programs()?;
    let arguments: Vec<String> = rig::part::arguments().collect();
    let all = in_vm("crates", false, &programs, &arguments)?;
    let mut with_systemd = arguments;
    with_systemd.push("--ignored".into());
    let ignored = in_vm("crates-systemd", true, &programs, &with_systemd)?;
    Ok(ExitCode::from(u8::from(!(all && ignored))))
}

/// A program of tests, and where cargo would start it.
struct TestProgram {
    file: PathBuf,
    directory: PathBuf,
}

/// Has cargo build the packages' tests, and say where they are. All packages are built: alone, these
/// would be built with the features that they alone ask of their dependencies, and most of these again.
fn test_programs() -> Result<Vec<TestProgram>> {
    let built = run::cargo()
        .args(["test", "--no-run", "--workspace"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(built.status.success(), "cargo ended with {}", built.status);
    let mut programs = Vec::new();
    for line in built.stdout.split(|byte| *byte == b'\n') {
        let message: Value = serde_json::from_slice(line).unwrap_or_default();
        let manifest = message["manifest_path"].as_str().map(Path::new);
        if let (Some(file), true, Some(directory)) = (
            message["executable"].as_str(),
            message["profile"]["test"] == true,
            manifest.and_then(Path::parent),
        ) && is_wanted(&message)
        {
            programs.push(TestProgram {
                file: file.into(),
                directory: directory.into(),
            });
        }
    }
    ensure!(!programs.is_empty(), "{PACKAGES:?} have no tests");
    Ok(programs)
}

/// Whether a message of cargo's is about one of the packages: their identities end in
/// `#trefoil-runc@0.1.0`, as cargo writes them (`cargo help pkgid`) where the directory has another name.
fn is_wanted(message: &Value) -> bool {
    let identity = message["package_id"].as_str().unwrap_or_default();
    PACKAGES
        .iter()
        .any(|package| identity.contains(&format!("#{package}@")))
}

/// Runs them all in one test VM; whether all passed.
fn in_vm(
    name: &str,
    systemd: bool,
    programs: &[TestProgram],
    arguments: &[String],
) -> Result<bool> {
    let reports = cache::directory()?.join("reports");
    let vm = TestVm {
        systemd,
        limit: Some(LIMIT),
        environment: HOSTILE
            .iter()
            // The root is an overlay of two file systems, and a file's device not its directory's.
            .chain(&[PROPERTIES, ("TMPDIR", "/var/tmp")])
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        hot: programs
            .iter()
            .map(|program| program.file.clone())
            .collect(),
        transcript: reports.join(format!("test-vm-{name}.log")),
        ..TestVm::default()
    };
    // "$@" are the arguments of each.
    let mut script = String::from("status=0\n");
    for TestProgram { file, directory } in programs {
        script.push_str(&format!(
            "cd '{}' && '{}' \"$@\" || status=1\n",
            directory.display(),
            file.display()
        ));
    }
    script.push_str("exit $status");
    let mut words = vec!["sh", "-c", &script, "sh"];
    words.extend(arguments.iter().map(String::as_str));
    let ended = vm
        .run(&words, show)
        .with_context(|| format!("running the tests of {PACKAGES:?} in a test VM"))?;
    Ok(ended.code == 0)
}
