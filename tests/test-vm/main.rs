//! `test-vm`: a shell in the test VM, or one command.
//!
//!     test-vm [--cpus N] [--memory MIB] [--disk SIZE|PATH]... [--hot PATH]... [--read-only]
//!          [--icount] [--systemd] [--limit SECONDS] [--transcript FILE] [COMMAND [ARGUMENT...]]
//!
//! The command's exit status is ours; 125 if the test VM failed. One argument alone is a line for a
//! shell. See `rig::test_vm` for what a test VM is.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rig::guest::Images;
use rig::test_vm::{Disk, TestVm, init, show};
use rig::{cache, guard};

/// What `docker run` answers, too, when it was not the command that failed.
const VM_FAILED: u8 = 125;

fn main() -> Result<ExitCode> {
    init::take_part()?;
    guard::take_part()?;
    Ok(run().unwrap_or_else(|error| {
        eprintln!("test-vm: {error:#}");
        ExitCode::from(VM_FAILED)
    }))
}

fn run() -> Result<ExitCode> {
    let (mut vm, command) = options()?;
    // For `rig up` in there, which can build nothing.
    if let Some(images) = Images::if_kernel()? {
        vm.environment.push(images.variable()?);
        vm.hot.extend(images.files());
    }
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let ended = match command.as_slice() {
        [] if std::io::stdin().is_terminal() => {
            eprintln!("starting a shell in the test VM; `exit` ends both");
            vm.run_on_terminal(&["bash", "-i"])?
        }
        [] => bail!("a shell needs a terminal; or name a command"),
        [line] => vm.run(&["bash", "-c", line], show)?,
        words => vm.run(words, show)?,
    };
    eprintln!(
        "test-vm: the command started after {:.1} s and ended with {} after {:.1} s",
        ended.boot.as_secs_f64(),
        ended.code,
        ended.wall.as_secs_f64()
    );
    Ok(ExitCode::from(ended.code))
}

fn options() -> Result<(TestVm, Vec<String>)> {
    let mut vm = TestVm {
        directory: std::env::current_dir()?,
        transcript: cache::directory()?.join("reports/test-vm.log"),
        ..TestVm::default()
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
            "--cpus" => vm.cpus = value()?.parse().context("--cpus")?,
            "--memory" => vm.memory = value()?.parse().context("--memory")?,
            "--disk" => vm.disks.push(disk(&value()?)?),
            "--hot" => vm.hot.push(std::path::absolute(value()?)?),
            "--limit" => limit = Some(Duration::from_secs(value()?.parse().context("--limit")?)),
            "--transcript" => vm.transcript = value()?.into(),
            "--read-only" => vm.read_only = true,
            "--icount" => vm.instructions = true,
            "--systemd" => vm.systemd = true,
            "--" => break,
            _ => bail!("unknown option {argument:?}"),
        }
    }
    let command: Vec<String> = arguments.collect();
    match (limit, command.is_empty()) {
        (Some(limit), _) => vm.limit = Some(limit),
        // Somebody is there to end it.
        (None, true) => vm.limit = None,
        (None, false) => {}
    }
    Ok((vm, command))
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
