//! critest: the CRI's conformance tests and benchmarks, for one handler.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Handler, Rig, command};

/// How a spec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It doesn't, or could not be tried.
    Failed(String),
    /// critest finds that it doesn't apply here.
    Skipped(String),
}

/// One spec.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its full name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub time: Duration,
}

/// What critest reports.
#[derive(Clone, Debug)]
pub struct Report {
    /// The specs that were selected, by name.
    pub specs: Vec<Spec>,
    /// The names of all there are, selected or not; none if they aren't known.
    pub names: BTreeSet<String>,
}

/// Runs critest with more arguments; its own report goes to `output`, its messages to `log`.
pub fn run(
    rig: &Rig,
    handler: Handler,
    arguments: &[String],
    log: &Path,
    limit: Duration,
) -> Result<()> {
    let scratch = rig.directory().join("tmp");
    fs::create_dir_all(&scratch)?;
    let mut critest = rig.command(rig.tools().critest())?;
    let endpoint = format!("unix://{}", rig.socket().display());
    critest
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg(format!("--runtime-handler={}", handler.name()))
        .arg("--ginkgo.no-color")
        .args(arguments)
        // Its volumes, logs and profiles.
        .env("TMPDIR", &scratch)
        .current_dir(&scratch)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(File::create(log)?)
        .stderr(Stdio::null());
    let child = critest.spawn().context("starting critest")?;
    // That specs failed is in the report; that there is no report is for the caller to see.
    if command::wait(child, limit)?.is_none() {
        bail!(
            "critest was still running after {limit:?}; see {}",
            log.display()
        );
    }
    Ok(())
}

/// Runs the conformance tests: all specs that were selected. Without a report of critest's within
/// `limit` there is an error instead.
pub fn conformance(
    rig: &Rig,
    handler: Handler,
    focus: Option<&str>,
    reports: &Path,
    limit: Duration,
) -> Result<Report> {
    let report = reports.join(format!("critest-{handler}.json"));
    let log = reports.join(format!("critest-{handler}.log"));
    drop(fs::remove_file(&report));
    let mut arguments = vec![format!("--ginkgo.json-report={}", report.display())];
    arguments.extend(focus.map(|focus| format!("--ginkgo.focus={focus}")));
    run(rig, handler, &arguments, &log, limit)?;
    let report = fs::read(&report)
        .with_context(|| format!("critest left no report; see {}", log.display()))?;
    let suites: Value = serde_json::from_slice(&report)?;
    let mut specs = Vec::new();
    let mut names = BTreeSet::new();
    for spec in suites[0]["SpecReports"].as_array().into_iter().flatten() {
        if spec["LeafNodeType"] != "It" {
            // What comes before and after all specs has no name, and matters if it fails.
            if spec["State"] != "passed" {
                bail!("critest could not run: {}", spec["Failure"]["Message"]);
            }
            continue;
        }
        let mut name = String::new();
        for text in spec["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            name.push_str(text.as_str().unwrap_or_default());
            name.push(' ');
        }
        name.push_str(spec["LeafNodeText"].as_str().unwrap_or_default());
        if name.contains(" benchmark about ") {
            continue; // Not asked for here.
        }
        names.insert(name.clone());
        let message = spec["Failure"]["Message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        // What a focus leaves out is reported as skipped, for no reason.
        if focus.is_some() && spec["State"] == "skipped" && message.is_empty() {
            continue;
        }
        let outcome = match spec["State"].as_str() {
            Some("passed") => Outcome::Passed,
            Some("skipped" | "pending") => Outcome::Skipped(message),
            _ => Outcome::Failed(message),
        };
        let time = Duration::from_nanos(spec["RunTime"].as_u64().unwrap_or(0));
        specs.push(Spec {
            name,
            outcome,
            time,
        });
    }
    if specs.is_empty() {
        bail!("critest reports no specs; see {}", log.display());
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Report { specs, names })
}

/// Runs the benchmarks with parameters in critest's own names; answers the files it wrote.
pub fn benchmark(
    rig: &Rig,
    handler: Handler,
    parameters: &[(&str, u32)],
    limit: Duration,
) -> Result<PathBuf> {
    let output = rig.directory().join("benchmark");
    drop(fs::remove_dir_all(&output));
    fs::create_dir_all(&output)?;
    let file = rig.directory().join("benchmark.yaml");
    let lines: String = parameters
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    fs::write(&file, lines)?;
    let arguments = [
        "--benchmark".to_owned(),
        // Only what the parameters ask for.
        "--ginkgo.skip=on Image|from scratch".to_owned(),
        format!("--benchmarking-params-file={}", file.display()),
        format!("--benchmarking-output-dir={}", output.display()),
    ];
    run(rig, handler, &arguments, &output.join("log"), limit)?;
    Ok(output)
}
