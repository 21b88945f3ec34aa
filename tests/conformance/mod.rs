//! critest with a handler of ours, beside the stock one: same images, same kind of machine.
//!
//!     trefoil-test conformance [--in-vm] [--handler runc|trefoil|trefoil-vm|trefoil-confidential] [--focus REGEX | --part]
//!                 [--reports DIRECTORY] [--in-turn]
//!     trefoil-test conformance --handler trefoil-sandbox [--focus REGEX | --part] [--reports DIRECTORY] [--in-turn]
//!     trefoil-test conformance --suite client [--focus REGEX] [--reports DIRECTORY]
//!
//! The second is of pods that containerd's Sandbox API makes (`trefoil-vm-sandbox` as `trefoil-vm`). The last
//! is containerd's own suite of tests of its Go client, with `trefoil` beside stock.
//!
//! Here and without `--handler`, `trefoil` and stock both run, at once unless `--in-turn`, and ours
//! must pass what stock passes. With one handler, what stock passes is all but what
//! `not-by-stock.txt` lists, as it was found in a test VM. Confidential pods are under the simulated TEE, with a
//! policy that allows everything.
//!
//! A spec that fails is run again alone, with stock beside it: see [`rig::rerun`].
//!
//! What a handler doesn't pass is on a list of its own, `not-yet.txt`, `not-as-microvm.txt` or `not-as-confidential.txt`; what is
//! listed and passes must leave the list.
//!
//! `--in-vm` does it on pure cgroup v2 and another kernel: `trefoil`, and without a focus of yours
//! the specs to which that matters; another handler all of them. MicroVMs are made there anyway where
//! this machine has no KVM that boots Linux; `--part` asks them there for the same specs only.

mod again;
mod lists;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rig::confidential::{self, Simulated};
use rig::critest::{self, Outcome, Report};
use rig::guest::Images;
use rig::kvm::{self, Place};
use rig::test_vm::{self, TestVm};
use rig::{Handler, Rig, client_suite, containerd, erofs, rerun};

use crate::conformance::again::Again;
use crate::conformance::lists::List;
use crate::conformance::verdict::{Verdict, judge};

/// The specs whose subject is of the kernel's or of cgroups, or goes through much of a machine. The
/// others have been asked of the same shim on this machine.
const IN_VM: &[&str] = &[
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

/// The specs whose subject is what a pod's own container does where there is one, and the sandbox elsewhere.
const OF_SANDBOXES: &[&str] = &[
    "basic operations on PodSandbox",
    "should support DNS config",
    "should support set hostname",
    "should support HostNetwork is true",
    "should support HostIpc",
    "should support PodPID",
    "should support HostPID",
    "sysctls",
    "should support NamespaceMode_POD",
    "StopPodSandbox should not return an error if already stopped",
];

/// How long critest may take: all of it with microVMs in a test VM on a machine that is busy otherwise took
/// 16 minutes.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// How long the client suite may take, of one handler: some two minutes.
const CLIENT_LIMIT: Duration = Duration::from_secs(9 * 60);

/// How long a test VM may take to start and to tell what came of it.
const AROUND: Duration = Duration::from_secs(3 * 60);

/// Whose specs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Those of the CRI.
    Critest,
    /// Those of containerd's Go client.
    Client,
}

struct Options {
    suite: Suite,
    in_vm: bool,
    /// Of critest only what another kernel and cgroup v2 may matter to.
    part: bool,
    handler: Option<Handler>,
    focus: Option<String>,
    reports: PathBuf,
    in_turn: bool,
}

fn options() -> Result<Options> {
    let mut options = Options {
        suite: Suite::Critest,
        in_vm: false,
        part: false,
        handler: None,
        focus: None,
        reports: rig::cache::directory()?.join("reports"),
        in_turn: false,
    };
    let mut arguments = rig::part::arguments();
    while let Some(argument) = arguments.next() {
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || {
            given
                .clone()
                .or_else(|| arguments.next())
                .with_context(|| format!("{argument} needs a value"))
        };
        match name {
            "--suite" => match value()?.as_str() {
                "critest" => options.suite = Suite::Critest,
                "client" => (options.suite, options.in_turn) = (Suite::Client, true),
                other => bail!("no suite {other:?}: there are critest and client"),
            },
            "--handler" => options.handler = Some(Handler::from_str(&value()?)?),
            "--focus" => options.focus = Some(value()?),
            "--reports" => options.reports = value()?.into(),
            "--in-vm" => options.in_vm = true,
            "--part" => options.part = true,
            "--in-turn" => options.in_turn = true,
            _ => bail!("unknown argument {argument:?}"),
        }
    }
    let has_part = options
        .handler
        .is_some_and(|handler| handler != Handler::Trefoil && handler.is_ours());
    if options.part && (options.focus.is_some() || !has_part) {
        bail!("--part is for trefoil-vm and handlers of the Sandbox API, without --focus");
    }
    if options.part
        && options
            .handler
            .is_some_and(|handler| handler.usual() != handler)
    {
        options.focus = Some(OF_SANDBOXES.join("|"));
    }
    if options.suite == Suite::Client && (options.in_vm || options.handler.is_some()) {
        bail!("the client suite runs here, with both handlers");
    }
    Ok(options)
}

pub fn main() -> Result<ExitCode> {
    let options = options()?;
    // What a machine boots is there in a test VM, and where it is asked for.
    let images = match options.handler {
        Some(handler) if handler.makes_machines() => Some(Images::ensure()?),
        _ => None,
    };
    if options.handler == Some(Handler::TrefoilConfidential) && !test_vm::inside() {
        // In a test VM there is no network to fetch it from.
        erofs::ensure()?;
    }
    if !test_vm::inside() && (options.in_vm || has_to_be_in_vm(images.as_ref())?) {
        return in_vm(&options, images.as_ref());
    }
    fs::create_dir_all(&options.reports)?;
    let failed = match options.handler {
        Some(Handler::TrefoilSandbox) if !test_vm::inside() => {
            both(&options, Handler::TrefoilSandbox)?
        }
        Some(handler) => one(&options, handler, images.as_ref())?,
        None => both(&options, Handler::Trefoil)?,
    };
    if failed > 0 {
        bail!(
            "{failed} failed; the suites' reports and logs are in {}",
            options.reports.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there are machines to be made that this one's KVM doesn't boot.
fn has_to_be_in_vm(images: Option<&Images>) -> Result<bool> {
    Ok(match images {
        Some(images) => matches!(kvm::place(images)?, Place::TestVm { .. }),
        None => false,
    })
}

/// The same in a test VM, with its reports beside the others.
fn in_vm(options: &Options, images: Option<&Images>) -> Result<ExitCode> {
    rig::prepare()?;
    let reports = std::path::absolute(&options.reports)?.join("test-vm");
    fs::create_dir_all(&reports)?;
    let handler = options.handler.unwrap_or(Handler::Trefoil);
    handler.require()?;
    let mut arguments = vec![
        "--handler".to_owned(),
        handler.to_string(),
        "--reports".to_owned(),
        reports.to_string_lossy().into_owned(),
    ];
    let focus = match (&options.focus, handler) {
        (Some(focus), _) => Some(focus.clone()),
        (None, Handler::Trefoil) => Some(IN_VM.join("|")),
        (None, _) => options.part.then(|| IN_VM.join("|")),
    };
    if let Some(focus) = focus {
        arguments.extend(["--focus".to_owned(), focus]);
    }
    let mut vm = TestVm {
        // containerd's roots are in memory there.
        memory: 8192,
        limit: Some(LIMIT + AROUND),
        hot: vec![containerd::shim_binary()],
        writable: vec![reports],
        ..TestVm::default()
    };
    if let Some(images) = images {
        vm.environment.push(images.variable()?);
        vm.hot.extend(images.files());
    }
    vm.run_again(&format!("conformance-{handler}"), &arguments)
}

fn run(options: &Options, handler: Handler, images: Option<&Images>) -> Result<Report> {
    handler.require()?;
    let started = Instant::now();
    let rig = Rig::start()?;
    let _tee = prepare(&rig, handler, images)?;
    let focus = options.focus.as_deref();
    let reports = &options.reports;
    let report = match options.suite {
        Suite::Critest => critest::conformance(&rig, handler, focus, reports, LIMIT)?,
        Suite::Client => client_suite::run(&rig, handler, focus, reports, CLIENT_LIMIT)?,
    };
    rig.remove_all()?;
    fs::copy(
        rig.log(),
        options.reports.join(format!("containerd-{handler}.log")),
    )?;
    let leftovers = rig.leftovers()?;
    if !leftovers.is_empty() {
        // Suites kill and abandon things on purpose; told, but not held against the handler.
        println!("{handler}: left behind:\n{leftovers}");
    }
    println!(
        "{handler}: {} specs in {} s",
        report.specs.len(),
        started.elapsed().as_secs()
    );
    Ok(report)
}

/// Gives a node what the handler's pods need; what is of a TEE as long as what is answered is there.
fn prepare<'a>(
    rig: &'a Rig,
    handler: Handler,
    images: Option<&Images>,
) -> Result<Option<Simulated<'a>>> {
    if let Some(images) = images {
        rig.install_guest(images)?;
    }
    if handler != Handler::TrefoilConfidential {
        return Ok(None);
    }
    confidential::configure(rig)?;
    Simulated::permissive(rig).map(Some)
}

/// A handler alone, beside what is known of stock.
fn one(options: &Options, handler: Handler, images: Option<&Images>) -> Result<usize> {
    let report = run(options, handler, images)?;
    let mut stock = BTreeMap::new();
    if handler != Handler::Runc {
        for (name, reason) in List::of_stock().reasons()? {
            stock.insert(name.to_owned(), Outcome::Skipped(reason.to_owned()));
        }
    }
    let again = Again::new(options, handler, images);
    compare(&stock, &report, List::of(handler).as_ref(), &again)
}

/// A handler of ours with stock beside it.
fn both(options: &Options, handler: Handler) -> Result<usize> {
    let (stock, ours) = if options.in_turn {
        (
            run(options, Handler::Runc, None)?,
            run(options, handler, None)?,
        )
    } else {
        // They mostly wait: side by side takes hardly longer than one of them.
        thread::scope(|scope| {
            let stock = scope.spawn(|| run(options, Handler::Runc, None));
            let ours = run(options, handler, None);
            let stock = stock
                .join()
                .map_err(|_| anyhow!("the thread for the stock handler died"))?;
            Ok::<_, anyhow::Error>((stock?, ours?))
        })?
    };
    let stock = stock
        .specs
        .into_iter()
        .map(|spec| (spec.name, spec.outcome))
        .collect();
    let again = Again::new(options, handler, None);
    compare(&stock, &ours, Some(&List::of_suite(options.suite)), &again)
}

/// Says of each spec what its outcome comes to, and answers how many failed. What `stock` doesn't
/// hold, it passes.
fn compare(
    stock: &BTreeMap<String, Outcome>,
    ours: &Report,
    list: Option<&List>,
    again: &Again,
) -> Result<usize> {
    let (path, listed) = match list {
        Some(list) => (list.path, list.reasons()?),
        None => ("", BTreeMap::new()),
    };
    let verdicts: Vec<_> = ours
        .specs
        .iter()
        .map(|spec| {
            let name = spec.name.as_str();
            let stock = stock.get(name).unwrap_or(&Outcome::Passed);
            let listed = listed.get(name).copied();
            (spec, judge(stock, &spec.outcome, listed, path))
        })
        .collect();
    let fails = |(_, verdict): &&(_, Verdict)| matches!(verdict, Verdict::Failed(_));
    let few = verdicts.iter().filter(fails).count() <= rerun::MOST;
    let (mut passed, mut failed, mut flaky, mut skipped) = (0, 0, 0, 0);
    for (spec, verdict) in verdicts {
        let name = spec.name.as_str();
        match verdict {
            Verdict::Passed => passed += 1,
            Verdict::Failed(why) => match again.spec(spec, why, few) {
                Ok(()) => flaky += 1,
                Err(why) => {
                    println!("FAILED {name}\n       {}", why.replace('\n', "\n       "));
                    failed += 1;
                }
            },
            Verdict::Skipped(reason) => {
                println!("skipped: {name} # {reason}");
                skipped += 1;
            }
        }
    }
    // A name that the suite doesn't know excuses nothing and hides a slip.
    let unknown = |name: &&str| !ours.names.is_empty() && !ours.names.contains(*name);
    for name in listed.keys().copied().filter(unknown) {
        println!("FAILED {path} lists {name:?}, which the suite doesn't have");
        failed += 1;
    }
    for name in stock.keys().map(String::as_str).filter(unknown) {
        println!("FAILED {name}\n       stock has it, and ours doesn't");
        failed += 1;
    }
    again.tell();
    let flaky = match flaky {
        0 => String::new(),
        _ => format!(" {flaky} flaky,"),
    };
    println!("{passed} passed, {failed} failed,{flaky} {skipped} skipped");
    Ok(failed)
}
