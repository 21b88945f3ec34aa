//! The fuzz targets of the crates that `build.rs` lists, built once and run two at a time.
//!
//!     trefoil-test fuzz [--seconds N] [--runs N] [target]...    each until one of the two is reached
//!     trefoil-test fuzz replay target FILE...                   an input again, with a backtrace
//!     trefoil-test fuzz check                                   whether they could be built, without running any
//!
//! What was found to reach something new is kept in `fuzz/corpus` of the cache, and is where the next
//! run begins; an input that was too much is kept in `fuzz/findings`, and named. The last line is
//! `N passed, N failed`.

mod build;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rig::cache;

/// How many run at a time.
const AT_A_TIME: usize = 2;
/// What counts as done, whichever comes first, if nothing else is said.
const RUNS: u64 = 10_000_000;
/// The same, in seconds.
const SECONDS: u64 = 1800;
/// The longest input, in bytes.
const MOST_BYTES: u32 = 512;
/// An input that takes so many seconds is one too many: they take some thousandths.
const HANG: u32 = 20;
/// The most memory that an input may ask for at once, in MiB.
const MOST_ALLOCATED: u32 = 16;
/// The most descriptors: an input that leaves one open is soon seen.
const MOST_DESCRIPTORS: u32 = 100;
/// What of a failed target's output is shown.
const LAST_LINES: usize = 40;

const USAGE: &str =
    "usage: fuzz [--seconds N] [--runs N] [target]... | fuzz replay target FILE... | fuzz check";

/// How long to run.
struct Limits {
    runs: u64,
    seconds: u64,
}

pub fn main() -> Result<ExitCode> {
    let mut arguments = rig::part::arguments();
    let mut limits = Limits {
        runs: RUNS,
        seconds: SECONDS,
    };
    let mut wanted = Vec::new();
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--seconds" => limits.seconds = number(arguments.next())?,
            "--runs" => limits.runs = number(arguments.next())?,
            "replay" => {
                let target = arguments.next().context("replay which target?")?;
                return replay(&target, arguments.map(PathBuf::from).collect());
            }
            "check" => return build::check().map(|()| ExitCode::SUCCESS),
            word if word.starts_with('-') => bail!(USAGE),
            _ => wanted.push(word),
        }
    }
    let programs = build::programs()?;
    let names: Vec<_> = programs.iter().map(|program| name(program)).collect();
    if let Some(unknown) = wanted.iter().find(|target| !names.contains(target)) {
        bail!("there is no target {unknown:?}: {}", names.join(", "));
    }
    let chosen = programs
        .into_iter()
        .filter(|program| wanted.is_empty() || wanted.contains(&name(program)));
    let queue = Mutex::new(chosen.collect::<VecDeque<_>>());
    let outcomes = thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            loop {
                let next = queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some(program) = next else {
                    return outcomes;
                };
                let found = fuzz(&program, &limits);
                match &found {
                    Ok(summary) => println!("{}: {summary}", name(&program)),
                    Err(why) => println!("{}: FAILED: {why:#}", name(&program)),
                }
                outcomes.push(found.is_ok());
            }
        };
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_| vec![false]))
            .collect::<Vec<_>>()
    });
    let passed = outcomes.iter().filter(|&&passed| passed).count();
    let failed = outcomes.len() - passed;
    println!("{passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn number(word: Option<String>) -> Result<u64> {
    let word = word.context("a number is missing")?;
    word.parse()
        .with_context(|| format!("{word:?} is no number"))
}

fn name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The program, with what is the same for all.
fn command(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!(r#"ulimit -n {MOST_DESCRIPTORS} && exec "$0" "$@""#))
        .arg(program)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    command
}

/// Runs one target to its end, and says what it came to.
fn fuzz(program: &Path, limits: &Limits) -> Result<String> {
    let name = name(program);
    let home = cache::directory()?.join("fuzz");
    let corpus = home.join("corpus").join(&name);
    let findings = home.join("findings");
    let logs = home.join("logs");
    for directory in [&corpus, &findings, &logs] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let log_path = logs.join(format!("{name}.log"));
    let mut log = of_its_own(&log_path)?;
    let began = Instant::now();
    let mut command = command(program);
    command
        .arg(&corpus)
        .args(build::seeds(&name))
        .arg(format!("-runs={}", limits.runs))
        .arg(format!("-max_total_time={}", limits.seconds))
        .arg(format!("-max_len={MOST_BYTES}"))
        // Long ones from the beginning: what is deep in a device takes many steps.
        .arg("-len_control=0")
        .arg(format!("-timeout={HANG}"))
        .arg(format!("-malloc_limit_mb={MOST_ALLOCATED}"))
        // Naming them takes a process, which a target may take for one that was left.
        .arg("-print_funcs=0")
        .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
        .arg("-print_final_stats=1")
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    let status = command
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    let took = began.elapsed().as_secs();
    let mut said = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut said)?;
    let log = String::from_utf8_lossy(&said);
    if !status.success() {
        let lines: Vec<_> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..);
        bail!(
            "{status} after {took} s\n{}\nall of it: {}",
            last.unwrap_or_default().join("\n"),
            log_path.display()
        );
    }
    let runs = executions(&log).with_context(|| {
        format!(
            "it ended without saying how often it ran: {}",
            log_path.display()
        )
    })?;
    ensure!(runs > 0, "it has not run once");
    let reached = reached(&log).context("it reached no edges: it is not instrumented")?;
    Ok(format!("{runs} executions in {took} s, {reached}"))
}

/// A new file in the place of an earlier one, which may still be another run's.
fn of_its_own(path: &Path) -> Result<File> {
    let _ = fs::remove_file(path);
    let mut new = File::options();
    new.read(true).write(true).create_new(true);
    new.open(path)
        .with_context(|| format!("making {}", path.display()))
}

/// How often a target ran, by libFuzzer's word at its end.
fn executions(log: &str) -> Option<u64> {
    let number = |line: &str| {
        line.strip_prefix("stat::number_of_executed_units:")?
            .trim()
            .parse()
            .ok()
    };
    log.lines().find_map(number)
}

/// How many edges of the program it reached, and with how many inputs, by libFuzzer's last line:
/// `DONE   cov: 1611 ft: 5160 corp: 288/2589b lim: 21 exec/s: 739 rss: 160Mb`.
fn reached(log: &str) -> Option<String> {
    let line = log.lines().rfind(|line| line.contains("\tDONE"))?;
    let mut words = line.split_whitespace();
    let mut after = |what| {
        words.find(|word| *word == what)?;
        words.next()
    };
    let edges = after("cov:")?;
    let inputs = after("corp:")?.split('/').next()?;
    Some(format!("{edges} edges reached by {inputs} inputs"))
}

/// Runs inputs once each, and shows what the target says.
fn replay(target: &str, files: Vec<PathBuf>) -> Result<ExitCode> {
    ensure!(!files.is_empty(), "replay which files?");
    let programs = build::programs()?;
    let program = programs
        .iter()
        .find(|program| name(program) == target)
        .with_context(|| format!("there is no target {target:?}"))?;
    let status = command(program).args(files).status()?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_later_run_writes_into_no_earlier_ones_log() {
        let path = std::env::temp_dir().join(format!("fuzz-{}.log", std::process::id()));
        let mut first = of_its_own(&path).expect("first");
        first.write_all(b"first").expect("write");
        let mut later = of_its_own(&path).expect("later");
        later.write_all(b"later").expect("write");
        let mut said = String::new();
        first.rewind().expect("rewind");
        first.read_to_string(&mut said).expect("read");
        assert_eq!(said, "first");
        assert_eq!(fs::read_to_string(&path).expect("read"), "later");
        fs::remove_file(path).expect("remove");
    }

    #[test]
    fn what_a_run_came_to_is_read_from_its_log() {
        let log = "INFO: seed\n#16273\tDONE   cov: 1611 ft: 5160 corp: 288/2589b lim: 21\n\
                   stat::number_of_executed_units: 16273\n";
        assert_eq!(executions(log), Some(16273));
        assert_eq!(
            reached(log).as_deref(),
            Some("1611 edges reached by 288 inputs")
        );
        assert_eq!(executions("==1== ERROR: libFuzzer: deadly signal"), None);
    }
}
