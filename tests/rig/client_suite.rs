//! containerd's own suite of tests of its Go client (`integration/client`), for one handler.
//!
//! It starts a containerd of its own, at fixed places. So it gets file systems of its own there, and runs
//! alone: the cgroups of its containers have fixed names, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::critest::{Outcome, Report, Spec};
use crate::{Handler, Rig, command, tools};

/// Mounts what the suite's containerd fills, and runs the rest of the arguments.
const ALONE: &str =
    "for at in /run /var/lib /opt; do mount -t tmpfs tmpfs $at || exit; done; exec \"$@\"";

/// What is left out: tests of images and what they consist of, most of which pull from registries of the
/// world, tests of restarted daemons of other releases, and one that with our images' `nc` listens for ever.
const LEFT_OUT: &str = "Image|Export|Import|Convert|Lease|Content|Transfer|Snapshot|Migration|Fuzz\
                        |Checkpoint|BindLowPortNonOpt";

/// Runs all tests whose names match `focus`. What the suite says goes to `client-suite-HANDLER.log`.
///
/// # Errors
/// If it did not come to its end within `limit`.
pub fn run(
    rig: &Rig,
    handler: Handler,
    focus: Option<&str>,
    reports: &Path,
    limit: Duration,
) -> Result<Report> {
    let log = reports.join(format!("client-suite-{handler}.log"));
    let scratch = rig.directory().join("tmp");
    fs::create_dir_all(&scratch)?;
    let output = File::create(&log)?;
    // Of one that was killed.
    remove_cgroups();
    let mut suite = rig.command("unshare")?;
    suite
        .args(["--mount", "sh", "-c", ALONE, "sh"])
        .arg(tools::client_suite()?)
        .args(["-test.root", "-test.v", "-test.skip", LEFT_OUT])
        .arg(format!("-test.timeout={}s", limit.as_secs()))
        .args(focus.map(|focus| format!("-test.run={focus}")))
        .env("TEST_RUNTIME", handler.runtime_type())
        .env("TMPDIR", &scratch)
        .current_dir(&scratch)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let child = suite.spawn().context("starting the client suite")?;
    // Its own limit comes first, and names the test.
    let ended = command::wait(child, limit + Duration::from_secs(30))?;
    remove_cgroups();
    if ended.is_none() {
        bail!("the client suite still ran; see {}", log.display());
    }
    let said = fs::read(&log)?;
    let mut report = read(&String::from_utf8_lossy(&said));
    // The others haven't told their names.
    if focus.is_some() {
        report.names.clear();
    }
    if report.specs.is_empty() {
        bail!("the client suite ran no test; see {}", log.display());
    }
    Ok(report)
}

/// Nobody else removes the cgroups of its containerd namespace, and of two tests that name their own.
fn remove_cgroups() {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut hierarchies = directories(&root);
    hierarchies.push(root);
    for directory in hierarchies.iter().flat_map(|root| directories(root)) {
        let name = directory.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with("testing") {
            remove_cgroup(&directory);
        }
    }
}

/// Removes one with all that a failed test has left in it.
fn remove_cgroup(directory: &Path) {
    for below in directories(directory) {
        remove_cgroup(&below);
    }
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // Those who were killed take a moment to leave.
    let _ = command::until("the end of a cgroup", Duration::from_secs(5), || {
        Ok(fs::remove_dir(directory).is_ok())
    });
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let directories = entries.filter(is_directory);
    directories.map(|entry| entry.path()).collect()
}

/// What `go test -v` prints: of tests with parts only the whole, as the parts have names of the moment.
fn read(said: &str) -> Report {
    let mut specs: Vec<Spec> = Vec::new();
    let mut reasons: BTreeMap<&str, &str> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    let mut now = "";
    for line in said.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("==="), Some("RUN" | "CONT" | "NAME"), Some(name)) => {
                now = name.split('/').next().unwrap_or(name);
                begun.insert(now);
            }
            (Some("---"), Some(how), Some(name)) if line.starts_with('-') => {
                let reason = || reasons.get(name).copied().unwrap_or_default().to_owned();
                let outcome = match how {
                    "PASS:" => Outcome::Passed,
                    "SKIP:" => Outcome::Skipped(reason()),
                    _ => Outcome::Failed(reason()),
                };
                let seconds = words.next().unwrap_or_default();
                let seconds = seconds.trim_matches(['(', ')', 's']).parse();
                specs.push(Spec {
                    name: name.to_owned(),
                    outcome,
                    time: Duration::from_secs_f64(seconds.unwrap_or(0.0)),
                });
                now = name;
            }
            _ => {
                if let Some((file, message)) = line.trim().split_once("_test.go:")
                    && !file.contains(' ')
                {
                    // The last is why it ended.
                    reasons.insert(
                        now,
                        message.split_once(": ").map_or(message, |(_, text)| text),
                    );
                }
            }
        }
    }
    for name in begun {
        if !specs.iter().any(|spec| spec.name == name) {
            specs.push(Spec {
                name: name.to_owned(),
                outcome: Outcome::Failed("it did not end".to_owned()),
                time: Duration::ZERO,
            });
        }
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let names = specs.iter().map(|spec| spec.name.clone()).collect();
    Report { specs, names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wholes_are_read_with_why_they_ended() {
        let report = read(
            "=== RUN   TestA\n    a_test.go:1: begins\n=== RUN   TestB\n    b_test.go:7: not here\n\
             --- SKIP: TestB (0.00s)\n=== NAME  TestA\n    a_test.go:3: no such file\n\
             --- FAIL: TestA (1.50s)\n    --- FAIL: TestA/part (0.10s)\n=== RUN   TestC\n\
             === RUN   TestC/x\n    --- PASS: TestC/x (0.00s)\n--- PASS: TestC (0.00s)\n\
             === RUN   TestD\npanic: test timed out after 1s\n",
        );
        let outcomes: Vec<_> = report.specs.iter().map(|spec| &spec.outcome).collect();
        assert_eq!(
            outcomes,
            [
                &Outcome::Failed("no such file".into()),
                &Outcome::Skipped("not here".into()),
                &Outcome::Passed,
                &Outcome::Failed("it did not end".into()),
            ]
        );
        assert_eq!(report.specs[0].time, Duration::from_millis(1500));
    }
}
