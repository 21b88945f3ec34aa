//! critest with our handler and with the stock one: same images, same machine, same time.
//!
//!     conformance [--in-node] [--handler runc|trefoil] [--focus REGEX] [--reports DIRECTORY]
//!                 [--in-turn]
//!
//! Without `--handler` both run, at once unless `--in-turn`, and ours must pass what stock
//! passes, except what `not-yet.txt` lists; what is listed and passes must leave the list.
//! `--in-node` does it on pure cgroup v2 and another kernel, without a focus of yours for the
//! specs to which that matters.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rig::critest::{self, Outcome, Spec};
use rig::node::{Node, init};
use rig::{Handler, Rig, command, containerd, guard};

const NOT_YET: &str = include_str!("not-yet.txt");

/// The specs whose subject is of the kernel's or of cgroups, or goes through much of a machine.
/// All of them would take a quarter of an hour in a node.
const IN_NODE: &[&str] = &[
    "Container OOM",
    "listing container stats",
    "listing stats for started containers .Conformance",
    "support execSync",
    "should support HostPID",
    "should support PodPID",
    "should support HostIpc is false",
    "should support HostNetwork is true",
    "should support NamespaceMode_POD",
    "Privileged is",
    "should support MaskedPaths",
    "should support ReadonlyPaths",
    "seccomp default",
    "seccomp profile that blocks setting hostname with",
    "not allow privilege escalation when true",
    "dropping ALL capabilities",
    "sysctls",
    "should support recursive readonly mounts",
    "'rshared'",
    "exec with tty=true",
    "should support attach",
    "support portforward .Conformance",
    "mapping with host port",
];

struct Options {
    in_node: bool,
    handler: Option<Handler>,
    focus: Option<String>,
    reports: PathBuf,
    in_turn: bool,
}

fn options() -> Result<Options> {
    let mut options = Options {
        in_node: false,
        handler: None,
        focus: None,
        reports: rig::cache::directory()?.join("reports"),
        in_turn: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--handler" => options.handler = Some(Handler::from_str(&value()?)?),
            "--focus" => options.focus = Some(value()?),
            "--reports" => options.reports = value()?.into(),
            "--in-node" => options.in_node = true,
            "--in-turn" => options.in_turn = true,
            _ => bail!("unknown argument {argument:?}"),
        }
    }
    Ok(options)
}

fn main() -> Result<ExitCode> {
    init::take_part()?;
    guard::take_part()?;
    let options = options()?;
    if options.in_node {
        return in_node(&options);
    }
    fs::create_dir_all(&options.reports)?;
    let failed = match options.handler {
        Some(handler) => one(&options, handler)?,
        None => both(&options)?,
    };
    if failed > 0 {
        bail!(
            "{failed} failed; critest's reports and logs are in {}",
            options.reports.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The same in a node, with its reports beside the others.
fn in_node(options: &Options) -> Result<ExitCode> {
    rig::prepare()?;
    let reports = std::path::absolute(&options.reports)?.join("node");
    fs::create_dir_all(&reports)?;
    let mut arguments = vec![
        "--reports".to_owned(),
        reports.to_string_lossy().into_owned(),
        "--focus".to_owned(),
        options.focus.clone().unwrap_or_else(|| IN_NODE.join("|")),
    ];
    if let Some(handler) = options.handler {
        handler.require()?;
        arguments.extend(["--handler".to_owned(), handler.to_string()]);
    } else {
        Handler::Trefoil.require()?;
    }
    if options.in_turn {
        arguments.push("--in-turn".to_owned());
    }
    let node = Node {
        // containerd's roots are in memory there.
        memory: 8192,
        limit: Some(Duration::from_secs(15 * 60)),
        hot: vec![containerd::shim_binary()],
        writable: vec![reports],
        ..Node::default()
    };
    node.run_again("conformance", &arguments)
}

fn run(options: &Options, handler: Handler) -> Result<Vec<Spec>> {
    handler.require()?;
    let started = Instant::now();
    let rig = Rig::start()?;
    let specs = critest::conformance(&rig, handler, options.focus.as_deref(), &options.reports)?;
    rig.remove_all()?;
    fs::copy(
        rig.log(),
        options.reports.join(format!("containerd-{handler}.log")),
    )?;
    let leftovers = rig.leftovers()?;
    if !leftovers.is_empty() {
        // critest kills and abandons things on purpose; told, but not held against the handler.
        println!("{handler}: left behind by critest:\n{leftovers}");
    }
    println!(
        "{handler}: {} in {} s",
        Counts::of(&specs),
        started.elapsed().as_secs()
    );
    Ok(specs)
}

struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn of(specs: &[Spec]) -> Self {
        let count =
            |kind: fn(&Outcome) -> bool| specs.iter().filter(|spec| kind(&spec.outcome)).count();
        Self {
            passed: count(|outcome| matches!(outcome, Outcome::Passed)),
            failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
            skipped: count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The first line or two of a failure.
fn brief(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

fn one(options: &Options, handler: Handler) -> Result<usize> {
    let specs = run(options, handler)?;
    for spec in &specs {
        match &spec.outcome {
            Outcome::Failed(message) => println!("FAILED {}\n       {}", spec.name, brief(message)),
            Outcome::Skipped(reason) => println!("skipped: {} # {}", spec.name, brief(reason)),
            Outcome::Passed => {}
        }
    }
    let counts = Counts::of(&specs);
    println!("{counts}");
    Ok(counts.failed)
}

fn both(options: &Options) -> Result<usize> {
    let (stock, ours) = if options.in_turn {
        (
            run(options, Handler::Runc)?,
            run(options, Handler::Trefoil)?,
        )
    } else {
        // They mostly wait: side by side takes hardly longer than one of them.
        thread::scope(|scope| {
            let stock = scope.spawn(|| run(options, Handler::Runc));
            let ours = run(options, Handler::Trefoil);
            let stock = stock
                .join()
                .map_err(|_| anyhow!("the thread for the stock handler died"))?;
            Ok::<_, anyhow::Error>((stock?, ours?))
        })?
    };
    let ours: BTreeMap<&str, &Spec> = ours.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    let mut not_yet = not_yet()?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for stock in &stock {
        let name = stock.name.as_str();
        let excuse = not_yet.remove(name);
        let Some(our) = ours.get(name) else {
            println!("FAILED {name}\n       it did not run with our handler");
            failed += 1;
            continue;
        };
        match (&stock.outcome, &our.outcome, excuse) {
            (_, Outcome::Passed, None) => passed += 1,
            (_, Outcome::Passed, Some(_)) => {
                println!(
                    "FAILED {name}\n       it passes now: remove it from tests/conformance/not-yet.txt"
                );
                failed += 1;
            }
            (Outcome::Passed, Outcome::Failed(message), None) => {
                println!("FAILED {name}\n       {}", brief(message));
                failed += 1;
            }
            (Outcome::Passed, Outcome::Skipped(reason), None) => {
                println!(
                    "FAILED {name}\n       stock passes it, but for ours it was skipped: {}",
                    brief(reason)
                );
                failed += 1;
            }
            (Outcome::Passed, _, Some(reason)) => {
                println!("skipped: {name} # not yet: {reason}");
                skipped += 1;
            }
            (Outcome::Failed(message), ..) => {
                println!("skipped: {name} # stock fails it here: {}", brief(message));
                skipped += 1;
            }
            (Outcome::Skipped(reason), ..) => {
                println!("skipped: {name} # {}", brief(reason));
                skipped += 1;
            }
        }
    }
    // A name that critest doesn't know excuses nothing and hides a slip. With a focus they all
    // may be out of it.
    if options.focus.is_none() {
        for name in not_yet.keys() {
            println!(
                "FAILED tests/conformance/not-yet.txt lists {name:?}, which critest doesn't have"
            );
            failed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}

fn not_yet() -> Result<BTreeMap<&'static str, &'static str>> {
    let mut list = BTreeMap::new();
    for line in NOT_YET
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, reason) = line
            .split_once(" # ")
            .with_context(|| format!("no reason is given in {line:?}"))?;
        list.insert(name.trim(), command::tail(reason, 300));
    }
    Ok(list)
}
