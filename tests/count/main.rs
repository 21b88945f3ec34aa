//! What a guest's boot costs in instructions, counted in a node whose clocks count them.
//!
//!     count [--initcalls N]
//!
//! Each figure is taken in two nodes, and the two must agree within 0.1 %: they say the same on a
//! busy machine as on an idle one, so a difference of some thousand instructions can be seen.
//!
//! What is counted is everything that the node's one processor did meanwhile: the guest, and what
//! the node's KVM and QEMU did for it. From *kernel entry* (the first exit at the address where
//! the kernel is loaded: its first page isn't mapped yet) to *agent ready* (the guest's time stamp
//! counter as the agent says it).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::guard;
use rig::guest::{Guest, Images};
use rig::node::{Node, init};
use serde::{Deserialize, Serialize};

/// Set in the node.
const INSIDE: &str = "TREFOIL_COUNT_INSIDE";

/// What two counts of the same may differ by.
const TOLERANCE: f64 = 0.001;

/// The median of so many boots is taken: in some a timer of the node's falls that doesn't in others.
const BOOTS: usize = 9;

/// The most instructions from kernel entry to agent ready that we allow ourselves.
const ALLOWED: u64 = 45_000_000;

/// What one node counted, in instructions.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    /// From the kernel's entry to the agent being ready.
    ready: u64,
    /// The kernel's initial calls, without what they print, to the nearest thousand.
    initcalls: BTreeMap<String, u64>,
}

fn main() -> Result<ExitCode> {
    init::take_part()?;
    guard::take_part()?;
    if std::env::var_os(INSIDE).is_some() {
        println!("{}", serde_json::to_string(&inside()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let shown = shown_initcalls()?;
    let images = Images::ensure()?;
    let (one, other) = (in_node(&images)?, in_node(&images)?);

    let difference = one.ready.abs_diff(other.ready) as f64 / one.ready as f64;
    println!("| 1 CPU, 128 MiB, instructions | M | in another node | difference |");
    println!("|---|---|---|---|");
    println!(
        "| kernel entry to agent ready | {} | {} | {:.4} % |",
        millions(one.ready),
        millions(other.ready),
        difference * 100.0
    );
    println!("\n| initial call | instructions, M |\n|---|---|");
    let mut calls: Vec<_> = one.initcalls.iter().collect();
    calls.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
    for (name, cost) in calls.iter().take(shown) {
        println!("| `{name}` | {} |", millions(**cost));
    }
    let rest: u64 = calls.iter().skip(shown).map(|(_, cost)| **cost).sum();
    let number = calls.len().saturating_sub(shown);
    println!("| {number} more | {} |", millions(rest));
    ensure!(
        difference < TOLERANCE,
        "two counts of the same differ by {:.3} %",
        difference * 100.0
    );
    ensure!(
        one.ready <= ALLOWED,
        "the guest needs {} instructions to be ready; {ALLOWED} are allowed",
        one.ready
    );
    Ok(ExitCode::SUCCESS)
}

fn shown_initcalls() -> Result<usize> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(20),
        (Some("--initcalls"), Some(number)) => Ok(number.parse()?),
        _ => bail!("usage: count [--initcalls N]"),
    }
}

fn millions(count: u64) -> String {
    format!("{:.3}", count as f64 / 1e6)
}

fn in_node(images: &Images) -> Result<Counts> {
    let program = std::env::current_exe()?;
    let mut node = Node {
        instructions: true,
        memory: 2048,
        hot: vec![program.clone(), images.kernel.clone(), images.image.clone()],
        limit: Some(Duration::from_secs(300)),
        transcript: rig::cache::directory()?.join("reports/node-count.log"),
        ..Node::default()
    };
    node.environment.push(images.variable()?);
    node.environment.push((INSIDE.into(), "1".into()));
    let printed = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&printed);
    let ended = node.run(&[&program.to_string_lossy()], move |bytes| {
        keep.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
    })?;
    let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
    let printed = String::from_utf8_lossy(&printed);
    ensure!(ended.code == 0, "counting failed in the node: {printed}");
    let line = printed.lines().last().context("the node counted nothing")?;
    serde_json::from_str(line).with_context(|| format!("reading what the node counted: {line}"))
}

/// In the node: everything is in memory, and QEMU has been read, before anything is counted.
fn inside() -> Result<Counts> {
    let images = Images::ensure()?;
    let memory = Path::new("/dev/shm");
    let copy = |path: &Path| -> Result<PathBuf> {
        let target = memory.join(path.file_name().unwrap_or_default());
        fs::copy(path, &target).with_context(|| format!("copying {}", path.display()))?;
        Ok(target)
    };
    let guest = Guest {
        console: false,
        // Where nobody wants to run, the clock is moved on: while the node waits for the machine
        // below, hours may pass in it.
        limit: Duration::from_secs(24 * 3600),
        ..Guest::new(Images {
            kernel: copy(&images.kernel)?,
            image: copy(&images.image)?,
        })
    };
    guest.boot()?.0.power_off()?;

    let mut counts = Vec::new();
    for _ in 0..BOOTS {
        let trace = Trace::start()?;
        let (running, ready) = guest.boot()?;
        let entry = trace.entry()?;
        running.power_off()?;
        let count = ready.tsc.checked_sub(entry);
        let count = count.context("the agent was ready before the kernel was entered")?;
        counts.push(count);
    }

    counts.sort_unstable();
    let talkative = Guest {
        more_words: "initcall_debug log_buf_len=1M".into(),
        ..guest
    };
    let (mut running, _) = talkative.boot()?;
    let log = running.log()?;
    running.power_off()?;
    Ok(Counts {
        ready: *counts.get(BOOTS / 2).context("nothing was counted")?,
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

/// The node's kernel, writing down when a guest left its processor at a kernel's entry.
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
        // Where the kernel is loaded: nothing else runs there, and it itself soon no more.
        set(
            "events/kvm/kvm_exit/filter",
            "guest_rip >= 0x1000000 && guest_rip < 0x8000000",
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
        Ok(u64::try_from(time + offset()?)?)
    }
}

/// What the guest's time stamp counter shows more than the node's.
fn offset() -> Result<i64> {
    for vm in fs::read_dir("/sys/kernel/debug/kvm")? {
        let file = vm?.path().join("vcpu0/tsc-offset");
        if let Ok(text) = fs::read_to_string(&file) {
            return Ok(text.trim().parse()?);
        }
    }
    bail!("the node's KVM doesn't say a guest's time stamp offset")
}
