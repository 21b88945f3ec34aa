//! What a boot by our VMM costs in instructions, phase by phase, and by QEMU's `microvm`.
//!
//! The VMM is the release build. It tells of its phases in its metrics, and the agent of when it
//! was ready by the guest's time stamp counter.

use std::ops::Range;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use rig::counting::{self, BOOTS, Twice};
use rig::guest::Images;
use serde::{Deserialize, Serialize};
use trefoil_vmm::exit::{Exit, Stop};
use trefoil_vmm::metrics;

use crate::vmm::agent;
use crate::vmm::machine::{Agent, Machine, Vmm, ours};

/// The most instructions from the VMM's `main` to the guest's first that we allow ourselves.
const ALLOWED_BEFORE: u64 = 18_000_000;

/// The most from the start of the process to the agent being ready.
const ALLOWED: u64 = 65_000_000;

/// What is told of, in order: each from the end of the one before.
const PHASES: [&str; 8] = [
    "the process is made and runs its program",
    "the configuration is read",
    "memory and the virtual machine are made",
    "devices and virtual CPUs are made",
    "kernel and initramfs are put into memory",
    "the jail is closed",
    "threads and system call filters are made",
    "the guest: kernel entry to agent ready",
];

/// What the VMM itself does before there is a guest.
const BEFORE: &str = "`main` to the guest's first instruction";

/// Where the VMM's own begin.
const MAIN: usize = 1;
/// Where the guest's begin.
const GUEST: usize = 7;

/// What one test VM counted.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    /// As [`PHASES`].
    phases: Vec<u64>,
    /// From asking the agent to power off to the end of the process.
    end: u64,
    /// With QEMU, from the start of its process to the agent being ready.
    qemu: u64,
}

/// Counts, in test VMs or, inside of one, really.
pub fn run(images: &Images) -> Result<ExitCode> {
    if counting::inside() {
        counting::answer(&inside(images)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let program = ours::release_build()?;
    let variable = [ours::variable(&program)];
    let agree = |one: &Counts, other: &Counts| {
        // The making of the process is the test VM's kernel's work, and was an eighth cheaper in one test VM
        // than in another.
        phases(one, other, MAIN..GUEST).agrees(BEFORE)?;
        phases(one, other, GUEST..PHASES.len()).agrees("a guest's boot")
    };
    let (one, other) = counting::in_two_vms(images, &["count"], &[program], &variable, agree)?;
    let twice = |range| phases(&one, &other, range);
    println!("| 1 CPU, 128 MiB, {}", Twice::HEAD);
    for (number, what) in PHASES.iter().enumerate() {
        println!("{}", twice(number..number + 1).row(what));
    }
    let before = twice(MAIN..GUEST);
    println!("{}", before.row(BEFORE));
    let all = twice(0..PHASES.len());
    println!("{}", all.row("start of the process to agent ready"));
    let end = Twice {
        one: one.end,
        other: other.end,
    };
    println!(
        "{}",
        end.row("asked to power off, to the end of the process")
    );
    let qemu = Twice {
        one: one.qemu,
        other: other.qemu,
    };
    println!("{}", qemu.row("QEMU: start of the process to agent ready"));
    println!("\nTo QEMU: {:.2}", all.one as f64 / qemu.one as f64);
    before.within(BEFORE, ALLOWED_BEFORE)?;
    all.within("a boot", ALLOWED)?;
    Ok(ExitCode::SUCCESS)
}

/// What some phases take together.
fn phases(one: &Counts, other: &Counts, range: Range<usize>) -> Twice {
    let of_range = |counts: &Counts| {
        let from = counts.phases.iter().skip(range.start);
        from.take(range.len()).sum()
    };
    Twice {
        one: of_range(one),
        other: of_range(other),
    }
}

fn inside(images: &Images) -> Result<Counts> {
    let mut machine = Machine::new(&counting::images_to_memory(images)?);
    machine.console = false;
    machine.limit = counting::LIMIT;
    let program = ours::told_program().context("no VMM to count")?;
    machine.program = Some(counting::to_memory(&program)?);
    // The first one reads into the caches what the others find there.
    boot(&machine)?;
    qemus_boot(&machine)?;
    machine.limit = counting::STANDS_STILL;
    let mut boots = Vec::new();
    for _ in 0..BOOTS {
        boots.push((
            counting::again("our boot", || boot(&machine))?,
            counting::again("QEMU's boot", || qemus_boot(&machine))?,
        ));
    }
    // What comes on top in some, such as timers of the test VM's, is nobody's cost.
    let least = |of: &dyn Fn(&(Boot, u64)) -> Option<u64>| {
        let found = boots.iter().filter_map(of).min();
        found.context("nothing was counted")
    };
    Ok(Counts {
        phases: (0..PHASES.len())
            .map(|phase| least(&|(ours, _)| ours.phases.get(phase).copied()))
            .collect::<Result<_>>()?,
        end: least(&|(ours, _)| Some(ours.end))?,
        qemu: least(&|(_, qemus)| Some(*qemus))?,
    })
}

fn qemus_boot(machine: &Machine) -> Result<u64> {
    let start = metrics::now();
    let Agent {
        stream,
        mut machine,
        ..
    } = machine.boot_agent(Vmm::Qemu)?;
    let (mut agent, ready) = agent::hear(stream)?;
    let ready = on_our_clock(ready.tsc)?;
    agent::power_off(&mut agent)?;
    machine.await_end()?;
    ready
        .checked_sub(start)
        .context("the agent was ready before QEMU was started")
}

/// A boot of ours.
struct Boot {
    /// As [`PHASES`].
    phases: Vec<u64>,
    /// From asking the agent to power off to the end of the process.
    end: u64,
}

fn boot(machine: &Machine) -> Result<Boot> {
    let start = metrics::now();
    let Agent {
        stream,
        mut machine,
        ..
    } = machine.boot_agent(Vmm::Trefoil)?;
    let (mut agent, ready) = agent::hear(stream)?;
    let ready = on_our_clock(ready.tsc)?;
    let phases = &machine.ours()?.metrics.phases;
    let times = [
        start,
        phases.began.get(),
        phases.configured.get(),
        phases.machine.get(),
        phases.devices.get(),
        phases.loaded.get(),
        phases.jailed.get(),
        phases.running.get(),
        ready,
    ];
    ensure!(
        times.is_sorted(),
        "the phases of a boot are not in order: {times:?}"
    );
    let asked = metrics::now();
    agent::power_off(&mut agent)?;
    let exit = machine
        .ours()?
        .process
        .wait_within(counting::STANDS_STILL)?;
    ensure!(
        exit == Some(Exit::Done(Stop::PoweredOff)),
        "the machine ended with {exit:?}"
    );
    Ok(Boot {
        phases: std::iter::zip(times, times.iter().skip(1))
            .map(|(from, to)| to - from)
            .collect(),
        end: metrics::now() - asked,
    })
}

/// When a guest's time stamp counter showed this.
fn on_our_clock(guests: u64) -> Result<u64> {
    // SAFETY: every x86-64 processor has the instruction; it changes nothing.
    let (ours, now) = (unsafe { core::arch::x86_64::_rdtsc() }, metrics::now());
    let then = i64::try_from(guests)? - counting::guests_offset()?;
    let since = i64::try_from(ours)? - then;
    now.checked_add_signed(-since)
        .context("the guest's clock is ahead of ours")
}
