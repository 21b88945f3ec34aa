//! What a parent can ask our VMM for while the guest runs, and what it can see.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::probe::Cache;
use rig::probe::pattern::ZEROES;
use trefoil_vmm::control::Request;
use trefoil_vmm::exit::{Exit, Stop};
use trefoil_vmm::metrics::{self, Exits};

use crate::vmm::machine::Disk;
use crate::vmm::peers::beside;
use crate::vmm::scratch::Scratch;
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("control::pause_and_resume", pause_and_resume),
    ("control::power_off", power_off),
    ("control::kill", kill),
    ("control::metrics", metrics),
];

const LIMIT: Duration = Duration::from_secs(60);

/// A guest that is paused does nothing, and knows nothing of it afterwards.
fn pause_and_resume(setting: &Setting) -> Result<()> {
    let mut machine = setting.machine();
    (machine.cpus, machine.most_cpus) = (2, 2);
    let mut guest = machine.boot(setting.vmm)?;
    for _ in 0..3 {
        let (probe, ours) = guest.parts()?;
        ensure!(!ours.ask(Request::Stats)?.paused, "it is paused already");
        ensure!(ours.ask(Request::Pause)?.paused, "it is not paused");
        ensure!(
            ours.ask(Request::Stats)?.paused,
            "it is not paused any more"
        );
        let before = out_of_guest(&ours.metrics.exits);
        let answered = AtomicBool::new(false);
        let host = || {
            std::thread::sleep(Duration::from_secs(1));
            ensure!(!answered.load(Ordering::SeqCst), "a paused guest answers");
            let after = out_of_guest(&ours.metrics.exits);
            ensure!(
                before == after,
                "a paused guest runs: {before}, then {after} exits"
            );
            ours.ask(Request::Resume)
        };
        let stats = beside(host, || {
            probe.time()?;
            answered.store(true, Ordering::SeqCst);
            Ok(())
        })?;
        ensure!(!stats.paused, "it is still paused");
        // One that runs can be told to run.
        ensure!(!ours.ask(Request::Resume)?.paused, "it is paused");
    }
    let log = guest.probe.log()?;
    for bad in ["soft lockup", "stall", "unstable"] {
        let line = log.lines().find(|line| line.contains(bad));
        ensure!(line.is_none(), "the kernel says {line:?}");
    }
    guest.power_off()
}

fn out_of_guest(exits: &Exits) -> u64 {
    [
        &exits.port_in,
        &exits.port_out,
        &exits.register_read,
        &exits.register_write,
        &exits.nothing_there,
        &exits.interrupted,
        &exits.other,
    ]
    .map(metrics::Counter::get)
    .iter()
    .sum()
}

fn ends(setting: &Setting, paused: bool, request: Request, expected: &Exit) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let (_, ours) = guest.parts()?;
    if paused {
        ours.ask(Request::Pause)?;
    }
    ours.process.request(&request)?;
    let exit = ours
        .process
        .wait_within(LIMIT)?
        .context("it is still there")?;
    ensure!(exit == *expected, "{exit}");
    Ok(())
}

fn power_off(setting: &Setting) -> Result<()> {
    ends(
        setting,
        false,
        Request::PowerOff,
        &Exit::Done(Stop::PoweredOff),
    )?;
    ends(
        setting,
        true,
        Request::PowerOff,
        &Exit::Done(Stop::PoweredOff),
    )
}

fn kill(setting: &Setting) -> Result<()> {
    ends(setting, false, Request::Kill, &Exit::Killed)?;
    ends(setting, true, Request::Kill, &Exit::Killed)
}

/// The parent reads what is counted while it is counted.
fn metrics(setting: &Setting) -> Result<()> {
    const DISK: u64 = 1 << 20;
    const RNG: usize = 1;
    const BLOCK: usize = 2;
    let scratch = Scratch::new()?;
    let mut machine = setting.machine();
    machine.disks.push(Disk {
        file: scratch.disk("disk", DISK, ZEROES)?,
        read_only: false,
        serial: "counted".into(),
    });
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk("counted")?;
    let (probe, ours) = guest.parts()?;
    let metrics = &ours.metrics;
    ensure!(
        metrics.version.get() == metrics::VERSION,
        "the version is wrong"
    );
    let phases = &metrics.phases;
    let phases = [
        &phases.began,
        &phases.configured,
        &phases.machine,
        &phases.devices,
        &phases.loaded,
        &phases.jailed,
        &phases.running,
    ]
    .map(metrics::Counter::get);
    ensure!(
        phases.first() > Some(&0) && phases.is_sorted(),
        "the start's phases are not in order: {phases:?}"
    );
    // As in the virtio specification.
    let kinds: Vec<u64> = metrics
        .devices
        .iter()
        .map(|device| device.kind.get())
        .collect();
    ensure!(
        kinds.starts_with(&[19, 4, 2, 0]),
        "the devices are {kinds:?}"
    );

    let before = (
        metrics.devices[RNG].bytes_in.get(),
        metrics.devices[BLOCK].bytes_out.get(),
        metrics.devices[BLOCK].bytes_in.get(),
        metrics.devices[BLOCK].latency.nanoseconds.get(),
    );
    probe.random(1000)?;
    probe.write_disk(&disk, 0, DISK, 1, Cache::Bypassed)?;
    probe.check_disk(&disk, 0, DISK, 1, Cache::Bypassed)?;
    let [random, written, read, took] = [
        metrics.devices[RNG].bytes_in.get() - before.0,
        metrics.devices[BLOCK].bytes_out.get() - before.1,
        metrics.devices[BLOCK].bytes_in.get() - before.2,
        metrics.devices[BLOCK].latency.nanoseconds.get() - before.3,
    ];
    ensure!(random > 0, "no random bytes are counted");
    ensure!(
        written == DISK,
        "{written} of {DISK} bytes are counted as written"
    );
    ensure!(read == DISK, "{read} of {DISK} bytes are counted as read");
    ensure!(took > 0, "the disk's requests took no time");
    let failures: u64 = metrics
        .devices
        .iter()
        .map(|device| device.failures.get())
        .sum();
    ensure!(failures == 0, "{failures} failures are counted");
    guest.power_off()
}
