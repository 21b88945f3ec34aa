//! End to end: pods and containers of one handler, through crictl and ctr, in one containerd.
//!
//!     trefoil-test e2e [--in-vm] [--handler runc|trefoil|trefoil-vm] [--about pods|machines] [part of a trial's name]
//!
//! The trials about pods are those of crictl, ctr and containerd's ends; those about machines are of what
//! a microVM's guest, volumes and disks are like. Without `--about` it is both.
//!
//! With `--in-vm` and without a part of a name the trials are those that another kernel and cgroup v2
//! may matter to; `--in-vm ::` means all of them.
//!
//! Every trial is true of the stock handler as well, which is the reference. After each, all it
//! made is removed, and nothing may be left.

mod chaos;
mod clock;
mod confidential;
mod crowd;
mod ctr;
mod disks;
mod dispatch;
mod hostile;
mod kills;
mod machines;
mod pods;
mod privileged;
mod sandboxes;
mod sizes;
mod streams;
mod volumes;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use rig::guest::{self, Images};
use rig::kvm::{self, Place};
use rig::rerun::{Reruns, Run};
use rig::test_vm::{self, TestVm};
use rig::{Handler, Rig, command, containerd, erofs};

/// What a trial has.
#[derive(Clone)]
struct Env {
    rig: Arc<Rig>,
    handler: Handler,
    /// What serves containers in a guest, if there are guests.
    agent: Option<PathBuf>,
    /// Trials are asked for by name: these are run whole, however long that takes.
    by_name: bool,
    /// What earlier trials left behind: each is told of only once.
    known: Arc<Mutex<Vec<String>>>,
}

impl Env {
    /// The same for the stock handler.
    fn of_stock(&self) -> Self {
        Self {
            handler: Handler::Runc,
            ..self.clone()
        }
    }
}

/// What the stock handler doesn't do, and why: skipped there, and asked of ours. A name, or its first
/// part.
const BEYOND_STOCK: &[(&str, &str)] = &[
    (dispatch::PART, "the stock handler knows one isolation"),
    (
        sandboxes::PART,
        "no stock shim serves containerd's Sandbox API",
    ),
    (
        ctr::OWN_PROGRAM,
        "the stock shim's own program runs no container",
    ),
    (
        "chaos::shim_killed_in_a_start",
        "containers of a dead stock shim run on, unmanaged",
    ),
    (
        "chaos::shim_killed",
        "containers of a dead stock shim run on, unmanaged",
    ),
    (
        "chaos::all_shim_processes_killed",
        "containers of a dead stock shim run on, unmanaged",
    ),
    (
        "chaos::shim_killed_while_containerd_is_down",
        "containers of a dead stock shim run on, unmanaged",
    ),
    (
        "chaos::containerd_killed_in_a_start",
        "a stock shim that containerd didn't get to know runs on, and cgroups stay",
    ),
    (
        "chaos::pause_killed",
        "the stock shim outlives a pod whose first process was killed",
    ),
    (
        "chaos::end_while_containerd_is_down",
        "containerd takes a stock shim whose container has ended for a leaked one: exit code 255",
    ),
];

/// What needs a KVM that boots Linux, whatever the handler.
const NEED_MACHINES: &[&str] = &[dispatch::RAISES, sandboxes::RAISES];

/// What another kernel and cgroup v2 don't matter to, and why: asked of namespace containers on the machine
/// below. What is left for the test VM is about limits and figures, freezing and killing, namespaces, mounts
/// and users, and what a pod whose processes are killed leaves. A name, or its first part.
const SAME_EVERYWHERE: &[(&str, &[&str])] = &[
    (
        "containerd, crictl and pipes carry it",
        &[
            "streams::",
            "pods::port_forward",
            "pods::host_port",
            "ctr::output",
            "ctr::large_output",
            "ctr::input",
            "ctr::terminal",
        ],
    ),
    (
        "one kernel's files are bound into containers, whichever it is",
        &["volumes::"],
    ),
    (
        "the shim decides, before it asks a kernel for anything",
        &[dispatch::PART],
    ),
    (
        "exit codes and words are the same on all kernels",
        &[
            "pods::exit_codes",
            "pods::start_of_nothing",
            "pods::stop_in_order",
            "pods::environment_and_arguments",
            "ctr::exit_codes",
            "ctr::exec",
        ],
    ),
    (
        "it is what the trial of one does, several times",
        &[
            "pods::container_again",
            "pods::ten_containers",
            "pods::eight_at_once",
        ],
    ),
    (
        "containerd dies, and finds its shims by what is in files",
        &[
            "chaos::containerd_restarted",
            "chaos::end_while_containerd_is_down",
            chaos::KILLS_CONTAINERD_MIDWAY,
        ],
    ),
];

/// Whether a trial is asked of this handler in another run only, unless it is asked for by name.
fn elsewhere(name: &str, handler: Handler) -> bool {
    // They set the clock.
    if name.starts_with(clock::PART) && !test_vm::inside() {
        return true;
    }
    match handler.usual() {
        Handler::Trefoil => {
            let same = SAME_EVERYWHERE.iter().flat_map(|(_, names)| *names);
            test_vm::inside() && same.into_iter().any(|of| name.starts_with(of))
        }
        // These are of our handlers, whichever the others are of; one of them makes a machine.
        Handler::TrefoilVm => name.starts_with(dispatch::PART) && !NEED_MACHINES.contains(&name),
        _ => false,
    }
}

/// What a microVM doesn't do, and why.
const BEYOND_MACHINES: &[(&str, &str)] = &[
    (
        sandboxes::USERS,
        "refused: a guest's users are none of the node's anyway",
    ),
    (
        sandboxes::SHARED_PROCESSES,
        "a guest's processes have no namespaces on the node",
    ),
    (
        "pods::exit_by_signal",
        "a guest's processes have no numbers on the node",
    ),
    (
        ctr::OWN_PROGRAM,
        "a guest's processes have no numbers on the node",
    ),
    (
        "pods::shared_namespaces",
        "a guest's processes have no namespaces on the node",
    ),
    (
        "pods::host_processes",
        "refused, see machines::host_namespaces",
    ),
    (
        "pods::host_network",
        "refused, see machines::host_namespaces",
    ),
    (
        "chaos::container_killed",
        "a guest's processes have no numbers on the node",
    ),
];

/// What containerd itself leaves when it is killed between having made a pod's network and having
/// written down that it has. No shim hears of these.
const CONTAINERDS_OWN: &[&str] = &[
    "/io.containerd.grpc.v1.cri/netns/",
    "/var/lib/cni/",
    "/cni-state/",
];

type Body = fn(&Env) -> Result<()>;

pub fn main() -> Result<ExitCode> {
    let options = split_arguments()?;
    let handler = options.handler;
    let mut arguments = Arguments::from_iter(options.rest.iter().cloned());
    // What a machine boots is there in a test VM, and where it is asked for.
    let machines = handler.makes_machines() || options.in_vm || guest::is_prebuilt();
    let images = match arguments.list {
        false if machines => {
            // In a test VM there is no network to fetch it from.
            erofs::ensure()?;
            Some(Images::ensure()?)
        }
        _ => None,
    };
    if let Some(images) = images.as_ref().filter(|_| !test_vm::inside())
        && (options.in_vm || matches!(kvm::place(images)?, Place::TestVm { .. }))
    {
        return again_in_vm(options, images);
    }
    // The trials share one containerd, which some of them kill.
    arguments.test_threads = Some(1);
    let trials = options.about.trials();
    let env = if arguments.list {
        None
    } else {
        handler.require()?;
        let rig = Rig::start()?;
        if let Some(images) = &images {
            rig.install_guest(images)?;
        }
        rig.ctr_pull(rig::images::BASE)?;
        rig.pull(rig::images::BASE)?;
        Some(Arc::new(Env {
            rig: Arc::new(rig),
            handler,
            agent: images.as_ref().map(|images| images.agent.clone()),
            by_name: arguments.filter.is_some(),
            known: Arc::default(),
        }))
    };
    let filter = arguments.filter.clone();
    let reruns = Arc::new(Reruns::default());
    let trials = trials
        .into_iter()
        .map(|(name, body)| {
            let (env, reruns) = (env.clone(), reruns.clone());
            let beyond = beyond(handler)
                .into_iter()
                .find(|(of, _)| name.starts_with(of));
            let wanted = filter
                .as_ref()
                .is_none_or(|part| name.contains(part.as_str()));
            if let (Some((_, reason)), true) = (beyond, wanted) {
                println!("skipped: {name} # {reason}");
            }
            // Those are asked elsewhere.
            let elsewhere = NEED_MACHINES.contains(&name) && images.is_none()
                || filter.is_none() && elsewhere(name, handler);
            Trial::test(name, move || match &env {
                Some(env) => {
                    let stock = || attempt(&env.of_stock(), name, body);
                    let stock: Option<Run> = if has_stock(name, handler) {
                        Some(&stock)
                    } else {
                        None
                    };
                    let ours = || attempt(env, name, body);
                    reruns.attempt(name, &ours, stock).map_err(Failed::from)
                }
                None => Ok(()),
            })
            .with_ignored_flag(beyond.is_some() || elsewhere)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    reruns.tell();
    // Dropped before the process ends without looking back.
    drop(env);
    Ok(conclusion.exit_code())
}

/// What trials are about.
#[derive(Clone, Copy)]
enum About {
    Pods,
    Machines,
    Both,
}

impl About {
    fn trials(self) -> Vec<(&'static str, Body)> {
        let pods = [
            pods::TRIALS,
            streams::TRIALS,
            ctr::TRIALS,
            chaos::TRIALS,
            dispatch::TRIALS,
            sandboxes::TRIALS,
        ];
        let machines = [
            machines::TRIALS,
            volumes::TRIALS,
            privileged::TRIALS,
            clock::TRIALS,
            sizes::TRIALS,
            kills::TRIALS,
            crowd::TRIALS,
            hostile::TRIALS,
            confidential::TRIALS,
            // The last, as they give containerd other snapshotters.
            disks::TRIALS,
        ];
        match self {
            Self::Pods => pods.concat(),
            Self::Machines => machines.concat(),
            Self::Both => [pods.concat(), machines.concat()].concat(),
        }
    }

    fn named(name: &str) -> Result<Self> {
        match name {
            "pods" => Ok(Self::Pods),
            "machines" => Ok(Self::Machines),
            _ => bail!("trials are about pods or machines, not about {name}"),
        }
    }

    fn argument(self) -> Option<String> {
        match self {
            Self::Pods => Some("--about=pods".to_owned()),
            Self::Machines => Some("--about=machines".to_owned()),
            Self::Both => None,
        }
    }
}

/// Runs the trials in a test VM, which has a KVM.
fn again_in_vm(options: Options, images: &Images) -> Result<ExitCode> {
    options.handler.require()?;
    rig::prepare()?;
    let vm = TestVm {
        // containerd's root is in memory there.
        memory: 8192,
        limit: Some(Duration::from_secs(44 * 60)),
        environment: vec![images.variable()?],
        hot: [&[containerd::shim_binary()], images.files().as_slice()].concat(),
        ..TestVm::default()
    };
    let mut arguments = vec![format!("--handler={}", options.handler)];
    arguments.extend(options.about.argument());
    arguments.extend(options.rest.into_iter().skip(1));
    vm.run_again("e2e", &arguments)
}

/// Whether what a trial asks of this handler can be asked of the stock one beside it.
fn has_stock(name: &str, handler: Handler) -> bool {
    handler.usual() == Handler::Trefoil
        && !beyond(Handler::Runc)
            .iter()
            .any(|(of, _)| name.starts_with(of))
}

/// What isn't asked of a handler, and why.
fn beyond(handler: Handler) -> Vec<(&'static str, &'static str)> {
    let parts = [
        machines::PART,
        kills::PART,
        hostile::PART,
        disks::PART,
        privileged::PART,
        confidential::PART,
    ];
    let no_machines = parts.map(|part| (part, "it makes no machines"));
    match handler.usual() {
        Handler::Runc => [BEYOND_STOCK, &no_machines].concat(),
        Handler::Trefoil => no_machines.to_vec(),
        Handler::TrefoilVm => BEYOND_MACHINES.to_vec(),
        _ => Vec::new(),
    }
}

/// What is asked for besides what the trials' harness understands.
struct Options {
    handler: Handler,
    in_vm: bool,
    about: About,
    /// The harness's, with the program's name.
    rest: Vec<String>,
}

/// Takes our own options out of the arguments.
fn split_arguments() -> Result<Options> {
    let mut options = Options {
        handler: Handler::Trefoil,
        in_vm: false,
        about: About::Both,
        rest: Vec::new(),
    };
    let mut arguments = rig::part::named();
    while let Some(argument) = arguments.next() {
        if argument == "--in-vm" {
            options.in_vm = true;
        } else if argument == "--handler" {
            let name = arguments.next().context("--handler needs a name")?;
            options.handler = Handler::from_str(&name)?;
        } else if let Some(name) = argument.strip_prefix("--handler=") {
            options.handler = Handler::from_str(name)?;
        } else if argument == "--about" {
            let name = arguments.next().context("--about needs pods or machines")?;
            options.about = About::named(&name)?;
        } else if let Some(name) = argument.strip_prefix("--about=") {
            options.about = About::named(name)?;
        } else {
            options.rest.push(argument);
        }
    }
    Ok(options)
}

/// Runs one trial, and whatever came of it cleans up and looks for what is left.
fn attempt(env: &Env, name: &str, body: Body) -> Result<()> {
    let log_before = fs::metadata(env.rig.log()).map_or(0, |data| data.len());
    let outcome = body(env);
    let after = clean(env, name == chaos::KILLS_CONTAINERD_MIDWAY);
    let Err(error) = outcome.and(after) else {
        return Ok(());
    };
    let log = fs::read(env.rig.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(log.get(usize::try_from(log_before)?..).unwrap_or_default())
        .into_owned();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| {
            line.contains("level=warn")
                || line.contains("level=error")
                || !line.starts_with("time=")
        })
        .collect();
    // The failure first: a summary shows the beginning.
    bail!(
        "{error:#}\ncontainerd meanwhile:\n{}",
        command::tail(&complaints.join("\n"), 3000)
    )
}

fn clean(env: &Env, midway: bool) -> Result<()> {
    if env.rig.daemon_pid().is_err() {
        env.rig.start_daemon()?;
    }
    env.rig
        .remove_all()
        .context("removing what the trial made")?;
    let mut leftovers = env.rig.leftovers()?;
    let mut known = env.known.lock().unwrap_or_else(PoisonError::into_inner);
    leftovers.0.retain(|line| !known.contains(line));
    known.extend(leftovers.0.iter().cloned());
    if midway {
        leftovers
            .0
            .retain(|line| !CONTAINERDS_OWN.iter().any(|part| line.contains(part)));
    }
    ensure!(leftovers.is_empty(), "left behind:\n{leftovers}");
    Ok(())
}

/// How long to wait for what takes at most this long on a machine: in a test VM all is slower, and in a
/// guest of the test VM slower still.
fn patience(time: Duration) -> Duration {
    match rig::test_vm::inside() {
        true => time * 10,
        false => time,
    }
}

/// An error that shows both sides unless they are equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found != wanted {
        bail!("{what}: {found:?}, not {wanted:?}");
    }
    Ok(())
}
