//! `node`: a shell in the node, or one command.
//!
//!     node [--cpus N] [--memory MIB] [--disk SIZE|PATH]... [--hot PATH]... [--read-only]
//!          [--icount] [--systemd] [--limit SECONDS] [--transcript FILE] [COMMAND [ARGUMENT...]]
//!
//! The command's exit status is ours; 125 if the node failed. One argument alone is a line for a
//! shell. See `rig::node` for what a node is.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rig::guest::Images;
use rig::node::{Disk, Node, init, show};
use rig::{cache, guard};

/// What `docker run` answers, too, when it was not the command that failed.
const NODE_FAILED: u8 = 125;

fn main() -> Result<ExitCode> {
    init::take_part()?;
    guard::take_part()?;
    Ok(run().unwrap_or_else(|error| {
        eprintln!("node: {error:#}");
        ExitCode::from(NODE_FAILED)
    }))
}

fn run() -> Result<ExitCode> {
    let (mut node, command) = options()?;
    // For `rig up` in there, which can build nothing.
    if let Some(images) = Images::if_kernel()? {
        node.environment.push(images.variable()?);
        node.hot.extend(images.files());
    }
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let ended = match command.as_slice() {
        [] if std::io::stdin().is_terminal() => {
            eprintln!("starting a shell in the node; `exit` ends both");
            node.run_on_terminal(&["bash", "-i"])?
        }
        [] => bail!("a shell needs a terminal; or name a command"),
        [line] => node.run(&["bash", "-c", line], show)?,
        words => node.run(words, show)?,
    };
    eprintln!(
        "node: the command started after {:.1} s and ended with {} after {:.1} s",
        ended.boot.as_secs_f64(),
        ended.code,
        ended.wall.as_secs_f64()
    );
    Ok(ExitCode::from(ended.code))
}

fn options() -> Result<(Node, Vec<String>)> {
    let mut node = Node {
        directory: std::env::current_dir()?,
        transcript: cache::directory()?.join("reports/node.log"),
        ..Node::default()
    };
    let mut limit = None;
    let mut arguments = std::env::args().skip(1).peekable();
    while let Some(argument) = arguments.next_if(|argument| argument.starts_with("--")) {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--cpus" => node.cpus = value()?.parse().context("--cpus")?,
            "--memory" => node.memory = value()?.parse().context("--memory")?,
            "--disk" => node.disks.push(disk(&value()?)?),
            "--hot" => node.hot.push(std::path::absolute(value()?)?),
            "--limit" => limit = Some(Duration::from_secs(value()?.parse().context("--limit")?)),
            "--transcript" => node.transcript = value()?.into(),
            "--read-only" => node.read_only = true,
            "--icount" => node.instructions = true,
            "--systemd" => node.systemd = true,
            "--" => break,
            _ => bail!("unknown option {argument:?}"),
        }
    }
    let command: Vec<String> = arguments.collect();
    match (limit, command.is_empty()) {
        (Some(limit), _) => node.limit = Some(limit),
        // Somebody is there to end it.
        (None, true) => node.limit = None,
        (None, false) => {}
    }
    Ok((node, command))
}

/// `2G` is an empty disk of that size; anything else is a path.
fn disk(text: &str) -> Result<Disk> {
    let shift = match text.chars().last() {
        Some('M') => 20,
        Some('G') => 30,
        _ => 0,
    };
    if let (true, Ok(number)) = (shift > 0, text.trim_end_matches(['M', 'G']).parse::<u64>()) {
        return Ok(Disk::Empty(number << shift));
    }
    let path = std::path::absolute(text)?;
    if !path.exists() {
        bail!("--disk {text}: neither a size like 512M or 2G nor a file that is there");
    }
    Ok(Disk::Existing(path))
}
