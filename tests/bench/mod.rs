//! Ours against the stock shim with runc: alternating, in one containerd, in the same run.
//!
//!     trefoil-test bench [--n 30] [--only PART OF A ROW'S NAME] [--output FILE]
//!     trefoil-test bench --handler trefoil-vm|trefoil-confidential [--n 3] [--only PART OF A ROW'S NAME]
//!     trefoil-test bench --count [--n 3] [--only PART OF A ROW'S NAME]
//!
//! The second is of microVM pods, or of confidential pods beside plain microVM pods, and the third of namespace pods, in a test VM whose clocks count
//! instructions: a millisecond is a million of them. Where nobody has anything to do the clock moves on, so *wall* holds waits as well. Each part has
//! a test VM of its own, and another if that stands still. Their memory is measured in an ordinary test VM.
//!
//! Prints a Markdown table of medians, quartiles and the ratio of the medians; below 1 ours is
//! better. Absolute figures mean little on a shared machine, ratios within one run mean more.
//!
//! What is measured, and how:
//! - *wall*: from before a client is started until it has ended; the client (a Go program of
//!   some 15 ms) is part of it, for both.
//! - *CPU*: containerd's cgroup, which all it starts is born into (shim, runc, helper), without
//!   the containerd process itself, plus what the containers' cgroup used. User and system time.
//! - *CRI*: critest's own benchmarks, which time each call inside one client.
//! - *PSS, RSS*: from `smaps_rollup` of the shim and of the processes of its own program, when
//!   all is started and has been idle for three seconds. PSS shares out what several map. Of a microVM
//!   pod the VMM is one of them, and with it all of the guest's memory that was ever used.

mod confidential;
mod machines;
mod measure;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use measure::Measure;
use rig::confidential::Simulated;
use rig::guest::Images;
use rig::test_vm::{self, TestVm};
use rig::{Handler, Rig, containerd, counting, erofs};
use table::Table;

/// Who is measured.
pub struct Peers<'a> {
    /// In one containerd.
    pub rig: &'a Rig,
    /// The peer and ours, in the order in which each round asks them.
    pub both: [Handler; 2],
}

struct Options {
    handler: Handler,
    /// In instructions, which microVM pods are measured in anyway.
    count: bool,
    n: usize,
    only: Option<String>,
    output: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options {
        handler: Handler::Trefoil,
        count: false,
        n: 30,
        only: None,
        output: None,
    };
    let mut arguments = rig::part::arguments();
    while let Some(argument) = arguments.next() {
        if argument == "--count" {
            options.count = true;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--handler" => options.handler = Handler::from_str(&value)?,
            "--n" => options.n = value.parse()?,
            "--only" => options.only = Some(value),
            "--output" => options.output = Some(value.into()),
            _ => bail!("unknown argument {argument:?}"),
        }
    }
    Ok(options)
}

pub fn main() -> Result<ExitCode> {
    let options = options()?;
    options.handler.require()?;
    let machines = match options.handler {
        Handler::TrefoilVm | Handler::TrefoilConfidential => Some(Images::ensure()?),
        Handler::Trefoil => None,
        other => bail!("{other} is not measured"),
    };
    let measures = |by_instructions| match machines {
        Some(_) => machines::all(options.handler, by_instructions),
        None => measure::all(by_instructions),
    };
    let wanted = |(name, _): &(&str, Measure)| match &options.only {
        Some(only) => name.contains(only),
        None => true,
    };
    if (machines.is_some() || options.count) && !test_vm::inside() {
        ensure!(
            options.output.is_none(),
            "a test VM prints and writes no file"
        );
        for by_instructions in [true, false] {
            if !by_instructions && machines.is_none() {
                continue; // Memory is the same on this machine.
            }
            for (name, _) in measures(by_instructions).iter().filter(|of| wanted(of)) {
                let attempt = || in_vm(machines.as_ref(), by_instructions, &options, name);
                match by_instructions {
                    true => counting::again(name, attempt)?,
                    false => attempt()?,
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rig = Rig::start()?;
    if let Some(images) = &machines {
        rig.install_guest(images)?;
    }
    let confidential = options.handler == Handler::TrefoilConfidential;
    let tee = if confidential {
        rig::confidential::configure(&rig)?;
        Some(Simulated::permissive(&rig)?)
    } else {
        None
    };
    rig.ctr_pull(rig::images::BASE)?;
    let peers = Peers {
        rig: &rig,
        both: [peer(options.handler), options.handler],
    };
    let mut table = Table::new(peers.both);
    let measures = match machines.is_some() || test_vm::inside() {
        true => measures(counting::inside()),
        false => measure::ALL.to_vec(),
    };
    for (name, measure) in measures.into_iter().filter(wanted) {
        eprintln!("measuring: {name}");
        measure(&peers, options.n, &mut table).with_context(|| format!("measuring {name}"))?;
        rig.remove_all()?;
    }
    drop(tee);
    drop(rig);
    let text = table.to_string();
    if let Some(output) = &options.output {
        fs::write(output, &text)?;
    }
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Who a handler is measured against.
fn peer(handler: Handler) -> Handler {
    match handler {
        // What protection costs, beside the same machine without it.
        Handler::TrefoilConfidential => Handler::TrefoilVm,
        _ => Handler::Runc,
    }
}

/// How long a test VM may take for one part where its clocks count instructions: several times what it needs. In
/// one that takes longer a guest stands still; its clocks go on, a second of them in some forty of ours.
fn limit(rounds: usize) -> Duration {
    let rounds = u64::try_from(rounds).unwrap_or(u64::MAX);
    Duration::from_secs(rounds.saturating_mul(60).saturating_add(180))
}

/// An ordinary test VM's.
const LIMIT: Duration = Duration::from_secs(3600);

/// Measures one part in a test VM, in which clocks may count instructions.
fn in_vm(
    images: Option<&Images>,
    by_instructions: bool,
    options: &Options,
    part: &str,
) -> Result<()> {
    rig::prepare()?;
    if options.handler == Handler::TrefoilConfidential {
        // In a test VM there is no network to fetch it from.
        erofs::ensure()?;
    }
    let mut environment = Vec::new();
    let mut hot = vec![containerd::shim_binary()];
    if let Some(images) = images {
        environment.push(images.variable()?);
        hot.extend(images.files());
    }
    if by_instructions {
        environment.push(counting::variable());
    }
    let vm = TestVm {
        instructions: by_instructions,
        // containerd's root is in memory there.
        memory: 8192,
        limit: Some(match by_instructions {
            true => limit(options.n),
            false => LIMIT,
        }),
        environment,
        hot,
        ..TestVm::default()
    };
    let (handler, n) = (options.handler.to_string(), options.n.to_string());
    let arguments = ["--handler", &handler, "--n", &n, "--only", part].map(str::to_owned);
    let status = vm.run_again("bench", &arguments)?;
    ensure!(status == ExitCode::SUCCESS, "measuring in a test VM failed");
    Ok(())
}
