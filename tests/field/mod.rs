//! Public reports of what went wrong with containers, as trials: what was reported of other
//! runtimes is tried with ours, and the stock handler beside it says what is right.
//!
//!     trefoil-test field [--in-vm] [part of a trial's name]
//!
//! Each trial plays a small scenario twice in one containerd, under the stock handler and under
//! ours, and compares what was seen. Where ours isn't as stock, and is meant not to be,
//! `differences.txt` gives the reason; it may only get shorter. The comment on each scenario ends
//! with the reports that it stands for.

mod cgroups;
mod devices;
mod differences;
mod fields;
mod hooks;
mod lifecycle;
mod messages;
mod mounts;
mod nested;
mod processes;
mod root;
mod seen;
mod side;
mod spec;
mod terminal;
mod users;
mod volumes;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, setgroups};
use rig::rerun::Reruns;
use rig::test_vm::TestVm;
use rig::{Handler, Rig, containerd};

use crate::field::seen::Seen;
use crate::field::side::Side;

/// A scenario's name, and what it does.
type Scenario = (&'static str, fn(&Side<'_>, &mut Seen) -> Result<()>);

/// Groups that no container may have: containerd is given them.
pub const GROUPS_OF_CONTAINERD: [u32; 2] = [4242, 4343];

/// What one handler has to do after the other, and not beside it.
const ONE_BY_ONE: &[&str] = &[
    lifecycle::RESTARTS,
    mounts::NO_NAMESPACE,
    processes::LARGE_NUMBERS,
];

pub fn main() -> Result<ExitCode> {
    let (ours, rest): (Vec<String>, Vec<String>) =
        rig::part::named().partition(|argument| argument == "--in-vm");
    let mut arguments = Arguments::from_iter(&rest);
    if !ours.is_empty() && !arguments.list {
        return again_in_vm(&rest[1..]);
    }
    // One containerd, which a scenario kills; the two sides of a trial run at once.
    arguments.test_threads = Some(1);
    let scenarios: Vec<Scenario> = [
        root::TRIALS,
        cgroups::TRIALS,
        terminal::TRIALS,
        mounts::TRIALS,
        volumes::TRIALS,
        devices::TRIALS,
        processes::TRIALS,
        users::TRIALS,
        hooks::TRIALS,
        fields::TRIALS,
        messages::TRIALS,
        nested::TRIALS,
        lifecycle::TRIALS,
    ]
    .concat();
    let rig = match arguments.list {
        true => None,
        false => {
            Handler::Trefoil.require()?;
            own_mounts()?;
            setgroups(&GROUPS_OF_CONTAINERD.map(Gid::from_raw)).context("taking groups")?;
            let rig = Rig::start()?;
            rig.pull(rig::images::BASE)?;
            Some(Arc::new(rig))
        }
    };
    let names: Vec<&str> = scenarios.iter().map(|(name, _)| *name).collect();
    let mut trials = vec![Trial::test("differences::known", move || {
        let listed = differences::listed().map_err(failed)?;
        differences::unknown(&names, &listed).map_err(Failed::from)
    })];
    let reruns = Arc::new(Reruns::default());
    for scenario in scenarios {
        let (rig, reruns) = (rig.clone(), reruns.clone());
        trials.push(Trial::test(scenario.0, move || match &rig {
            // Each run of it is one of stock, too.
            Some(rig) => reruns
                .attempt(scenario.0, &|| attempt(rig, scenario), None)
                .map_err(Failed::from),
            None => Ok(()),
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    reruns.tell();
    // Dropped before the process ends without looking back.
    drop(rig);
    Ok(conclusion.exit_code())
}

/// Leaves the machine's mounts alone, whatever a scenario brings a runtime to do with them. As on a
/// machine that systemd has started, all are shared, but among ourselves.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    for kind in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, kind | MsFlags::MS_REC, nothing).context("sharing mounts")?;
    }
    Ok(())
}

/// Runs the trials in a test VM, where there is cgroup v2 alone.
fn again_in_vm(arguments: &[String]) -> Result<ExitCode> {
    Handler::Trefoil.require()?;
    rig::prepare()?;
    let vm = TestVm {
        // containerd's root is in memory there.
        memory: 8192,
        limit: Some(std::time::Duration::from_secs(100 * 60)),
        hot: vec![containerd::shim_binary()],
        ..TestVm::default()
    };
    vm.run_again("field", arguments)
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

/// Plays a scenario under both handlers, and judges what came of it.
fn attempt(rig: &Rig, scenario: Scenario) -> Result<()> {
    let both = play_both(rig, scenario);
    let cleaned = clean(rig, scenario.0);
    let (stock, ours) = both?;
    let found = Seen::differences(&stock, &ours);
    if let Err(wrong) = differences::judge(scenario.0, &found, &differences::listed()?) {
        bail!("{wrong}");
    }
    cleaned
}

fn play_both(rig: &Rig, scenario: Scenario) -> Result<(Seen, Seen)> {
    if ONE_BY_ONE.contains(&scenario.0) {
        let stock = play(rig, Handler::Runc, scenario)?;
        return Ok((stock, play(rig, Handler::Trefoil, scenario)?));
    }
    thread::scope(|scope| {
        let stock = scope.spawn(|| play(rig, Handler::Runc, scenario));
        let ours = play(rig, Handler::Trefoil, scenario);
        let stock = stock.join().map_err(|_| anyhow!("the thread died"))?;
        Ok((stock?, ours?))
    })
}

fn play(rig: &Rig, handler: Handler, (name, body): Scenario) -> Result<Seen> {
    let side = Side::new(rig, handler, name)?;
    let mut seen = Seen::default();
    body(&side, &mut seen).with_context(|| format!("under {handler}"))?;
    seen.normalise(&side.names());
    Ok(seen)
}

/// Removes what a trial made, and fails if that isn't all gone then.
fn clean(rig: &Rig, name: &str) -> Result<()> {
    if rig.daemon_pid().is_err() {
        rig.start_daemon()?;
    }
    rig.remove_all().context("removing what the trial made")?;
    let leftovers = rig.leftovers()?;
    for handler in [Handler::Runc, Handler::Trefoil] {
        let directory = Side::directory_of(rig, handler, name);
        rig::namespaces::unmount_below(&directory)?;
        drop(fs::remove_dir_all(directory));
    }
    ensure!(leftovers.is_empty(), "left behind:\n{leftovers}");
    Ok(())
}
