//! Ours against the stock shim with runc: alternating, in one containerd, in the same run.
//!
//!     bench [--n 30] [--only PART OF A ROW'S NAME] [--output FILE]
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
//!   all is started and has been idle for three seconds. PSS shares out what several map.

mod measure;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rig::{Handler, Rig, guard};
use table::Table;

/// The peers, in the order in which each round asks them.
const BOTH: [Handler; 2] = [Handler::Runc, Handler::Trefoil];

struct Options {
    n: usize,
    only: Option<String>,
    output: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options {
        n: 30,
        only: None,
        output: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--n" => options.n = value.parse()?,
            "--only" => options.only = Some(value),
            "--output" => options.output = Some(value.into()),
            _ => bail!("unknown argument {argument:?}"),
        }
    }
    Ok(options)
}

fn main() -> Result<()> {
    guard::take_part()?;
    let options = options()?;
    Handler::Trefoil.require()?;
    let rig = Rig::start()?;
    rig.ctr_pull(rig::images::BASE)?;
    let mut table = Table::default();
    for (name, measure) in measure::ALL {
        if options
            .only
            .as_deref()
            .is_none_or(|only| name.contains(only))
        {
            eprintln!("measuring: {name}");
            measure(&rig, options.n, &mut table).with_context(|| format!("measuring {name}"))?;
            rig.remove_all()?;
        }
    }
    drop(rig);
    let text = table.to_string();
    if let Some(output) = &options.output {
        fs::write(output, &text)?;
    }
    println!("{text}");
    Ok(())
}
