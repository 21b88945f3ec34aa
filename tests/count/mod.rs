//! What a guest's boot costs in instructions, counted in a test VM whose clocks count them.
//!
//!     trefoil-test count [--initcalls N]
//!
//! QEMU boots it; what our VMM's boot costs is counted by `vmm count`. From *kernel entry* (the first
//! exit at the address where the kernel is loaded: its first page isn't mapped yet) to *agent ready*
//! (the guest's time stamp counter as the agent says it).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use rig::counting::{self, BOOTS, Twice, millions};
use rig::guest::{Guest, Images};
use serde::{Deserialize, Serialize};

/// The most instructions from kernel entry to agent ready that we allow ourselves.
const ALLOWED: u64 = 45_000_000;

/// What one test VM counted, in instructions.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    /// From the kernel's entry to the agent being ready.
    ready: u64,
    /// The kernel's initial calls, without what they print, to the nearest thousand.
    initcalls: BTreeMap<String, u64>,
}

pub fn main() -> Result<ExitCode> {
    if counting::inside() {
        counting::answer(&inside()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = shown_initcalls()?;
    let images = Images::ensure()?;
    let ready = |one: &Counts, other: &Counts| Twice {
        one: one.ready,
        other: other.ready,
    };
    let (one, other) = counting::in_two_vms(&images, &[], &[], &[], |one, other| {
        ready(one, other).agrees("a guest's boot")
    })?;

    let ready = ready(&one, &other);
    println!("| 1 CPU, 128 MiB, {}", Twice::HEAD);
    println!("{}", ready.row("kernel entry to agent ready"));
    println!("\n| initial call | instructions, M |\n|---|---|");
    let mut calls: Vec<_> = one.initcalls.iter().collect();
    calls.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
    for (name, cost) in calls.iter().take(shown) {
        println!("| `{name}` | {} |", millions(**cost));
    }
    let rest: u64 = calls.iter().skip(shown).map(|(_, cost)| **cost).sum();
    let number = calls.len().saturating_sub(shown);
    println!("| {number} more | {} |", millions(rest));
    ready.within("a guest's boot", ALLOWED)?;
    Ok(ExitCode::SUCCESS)
}

fn shown_initcalls() -> Result<usize> {
    let mut arguments = rig::part::arguments();
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(20),
        (Some("--initcalls"), Some(number)) => Ok(number.parse()?),
        _ => bail!("usage: count [--initcalls N]"),
    }
}

/// In the test VM: everything is in memory, and QEMU has been read, before anything is counted.
fn inside() -> Result<Counts> {
    let mut guest = Guest {
        console: false,
        limit: counting::LIMIT,
        ..Guest::new(counting::images_to_memory(&Images::ensure()?)?)
    };
    guest.boot()?.0.power_off()?;
    guest.limit = counting::STANDS_STILL;

    let mut counts = Vec::new();
    for _ in 0..BOOTS {
        counts.push(counting::again("a boot", || {
            let trace = Trace::start()?;
            let (running, ready) = guest.boot()?;
            let entry = trace.entry()?;
            running.power_off()?;
            let count = ready.tsc.checked_sub(entry);
            count.context("the agent was ready before the kernel was entered")
        })?);
    }

    let talkative = Guest {
        more_words: "initcall_debug log_buf_len=1M".into(),
        ..guest
    };
    let log = counting::again("a boot that tells of its initial calls", || {
        let (mut running, _) = talkative.boot()?;
        let log = running.log()?;
        running.power_off()?;
        Ok(log)
    })?;
    Ok(Counts {
        ready: counting::median(counts)?,
        initcalls: initcalls(&log)?,
    })
}

/// `initcall inet_init+0x0/0x370 returned 0 after 812 usecs`: a microsecond is a thousand.
fn initcalls(log: &str) -> Result<BTreeMap<String, u64>> {
    let mut calls = BTreeMap::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once("initcall ") else {
            continue;
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [name, "returned", _, "after", time, "usecs"] = words.as_slice() {
            let name = name.split('+').next().unwrap_or_default();
            *calls.entry(name.to_owned()).or_default() += time.parse::<u64>()? * 1000;
        }
    }
    ensure!(!calls.is_empty(), "the kernel's log names no initial calls");
    Ok(calls)
}

/// The test VM's kernel, writing down when a guest left its processor at a kernel's entry.
struct Trace;

const TRACING: &str = "/sys/kernel/tracing";

impl Trace {
    fn start() -> Result<Self> {
        let set = |file: &str, value: &str| {
            fs::write(Path::new(TRACING).join(file), value)
                .with_context(|| format!("writing {value:?} to the tracing file {file}"))
        };
        set("trace", "")?;
        // As the guest's counter counts, but for where it began.
        set("trace_clock", "x86-tsc")?;
        // Where the kernel is loaded, from 2 MiB on: nothing else runs there, and it itself soon no more.
        set(
            "events/kvm/kvm_exit/filter",
            "guest_rip >= 0x100000 && guest_rip < 0x8000000",
        )?;
        set("events/kvm/kvm_exit/enable", "1")?;
        Ok(Self)
    }

    /// The guest's time stamp counter at the first such exit.
    fn entry(self) -> Result<u64> {
        fs::write(Path::new(TRACING).join("events/kvm/kvm_exit/enable"), "0")?;
        let text = fs::read_to_string(Path::new(TRACING).join("trace"))?;
        // "ld-linux-x86-64-171  [000] d....  14066093153: kvm_exit: vcpu 0 reason npf rip 0x..."
        let line = text
            .lines()
            .find(|line| line.contains(": kvm_exit:"))
            .context("the guest's kernel was not seen to be entered")?;
        let time = line
            .split_once(": kvm_exit:")
            .and_then(|(before, _)| before.split_whitespace().last())
            .context("a trace without a time")?;
        let time: i64 = time
            .parse()
            .with_context(|| format!("the time in {line:?}"))?;
        Ok(u64::try_from(time + counting::guests_offset()?)?)
    }
}
