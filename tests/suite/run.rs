//! Running one step: what it prints is shown and counted, and it is ended when its time is over.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use trefoil_guest::run;

use crate::interrupt::{self, Group};
use crate::outcome::{Outcome, count};
use crate::screen::Screen;
use crate::slowest::Slowest;
use crate::steps::{SHIM, Step, TEST, What};

/// How long all steps have run, and may run.
pub struct Clock {
    started: Instant,
    limit: Duration,
}

impl Clock {
    pub fn start(limit: Duration) -> Self {
        Self {
            started: Instant::now(),
            limit,
        }
    }

    /// Since the first step.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Runs a step, and says what it came to and how far the whole run is. One that can't be run has failed.
pub fn run(step: &Step, clock: &Clock, screen: &Screen) -> Outcome {
    screen.say(&format!("\n== {}: {}", step.name, step.what));
    screen.begins(step.name);
    let started = Instant::now();
    let mut result = Outcome::default();
    if let Err(why) = attempt(step, clock, screen, &mut result) {
        let failure = format!("{why:#}");
        screen.say(&format!("{} | {failure}", step.name));
        result.failures.seen.push(failure);
        result.failed += 1;
    }
    result.time = started.elapsed();
    let came_to = result.numbers();
    screen.say(&format!(
        "== {} ended: {came_to}, in {} s with {} s of a processor; {} s of {}",
        step.name,
        result.time.as_secs(),
        result.work.as_secs(),
        clock.now().as_secs(),
        clock.limit.as_secs()
    ));
    screen.ended(step.name, result.failed == 0);
    result
}

/// Shows what a step complains of.
fn show(complaints: impl Read, step: &Step, screen: &Screen) {
    for line in BufReader::new(complaints).split(b'\n') {
        // An error while reading ends it just as its end does.
        let Ok(line) = line else { return };
        screen.say(&format!(
            "{} | {}",
            step.name,
            String::from_utf8_lossy(&line)
        ));
    }
}

/// Runs a step, showing what it prints, each line after the step's name, and counts what its programs say
/// they did.
fn attempt(step: &Step, clock: &Clock, screen: &Screen, result: &mut Outcome) -> Result<()> {
    let limit = step.limit().min(clock.limit.saturating_sub(clock.now()));
    let mut child = command(step, limit)
        .spawn()
        .with_context(|| format!("starting {}", step.what))?;
    let group = Group::of(Pid::from_raw(i32::try_from(child.id())?));
    let (done, watch) = end_after(limit, child.id())?;
    let (output, complaints) = (child.stdout.take(), child.stderr.take());
    let (output, complaints) = output.zip(complaints).context("no output")?;
    let mut counted = false;
    let mut slowest = Slowest::new();
    thread::scope(|scope| -> Result<()> {
        // Shown, and not counted: they may come in the middle of a line of the other.
        scope.spawn(|| show(complaints, step, screen));
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            screen.say(&format!("{} | {line}", step.name));
            counted |= count(&line, result);
            result.failures.read(&line);
            slowest.read(&line);
        }
        Ok(())
    })?;
    drop(done);
    result.settle();
    // Of cargo's tests several run at a time.
    let slowest = slowest.to_string();
    if let (What::Test(_), false) = (step.what, slowest.is_empty()) {
        screen.say(&format!("{} | the slowest: {slowest}", step.name));
    }
    let late = watch.join().unwrap_or_default();
    result.work = work(child.id())?;
    drop(group);
    let status = child.wait()?;
    ensure!(
        !late,
        "still running after {} s, and killed",
        limit.as_secs()
    );
    if !step.tests && !counted {
        result.passed = usize::from(status.success());
    }
    ensure!(
        !step.tests || result.passed + result.failed + result.flaky.len() > 0,
        "no test has run"
    );
    if !status.success() && result.failed == 0 {
        // It could not run, or not to its end.
        result.failed = 1;
    }
    Ok(())
}

/// What a child and all that it has waited for have had of processors, when it has ended.
fn work(child: u32) -> Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(child)?);
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat"))?;
    ticks(&stat).with_context(|| format!("reading {stat:?}"))
}

/// The times in `/proc/PID/stat`, its own and its children's: the 14th to the 17th field, in hundredths of a
/// second. The second field is a name, and may hold anything but ends with the last parenthesis.
fn ticks(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Option<Vec<u64>> = rest
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().ok())
        .collect();
    let fields = fields.filter(|fields| fields.len() == 4)?;
    Some(Duration::from_millis(fields.iter().sum::<u64>() * 10))
}

/// Kills a group of processes when its time is over, unless what is handed out is dropped before. The thread
/// says whether it did.
fn end_after(limit: Duration, group: u32) -> Result<(mpsc::Sender<()>, JoinHandle<bool>)> {
    let (done, ended) = mpsc::channel::<()>();
    let group = Pid::from_raw(i32::try_from(group)?);
    let watch = thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            // Not reaped before this thread has been told of its end: the id is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
        late
    });
    Ok((done, watch))
}

/// The step's program, in a group of its own, to end all of it if it hangs.
fn command(step: &Step, limit: Duration) -> Command {
    let mut command = match step.what {
        What::Cargo(arguments) => {
            let mut command = run::cargo();
            command.args(arguments);
            command
        }
        What::Built(program, arguments) => built(program, arguments),
        What::Test(arguments) => built(TEST, arguments),
        What::Script(path, argument) => {
            let mut command = Command::new(repository().join(path));
            command.arg(argument);
            command
        }
    };
    run::forget_package(&mut command);
    interrupt::unblocked(&mut command);
    command
        .current_dir(repository())
        // What is run again has to end within it, too.
        .env("TREFOIL_STEP_SECONDS", limit.as_secs().to_string())
        // Where it has one processor, cargo is not to take two.
        .env("CARGO_BUILD_JOBS", step.processors().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if std::env::var_os(SHIM_VARIABLE).is_none() {
        command.env(SHIM_VARIABLE, target().join(SHIM));
    }
    command
}

/// What names the shim to those that use it.
const SHIM_VARIABLE: &str = "TREFOIL_SHIM";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => repository().join("target"),
    }
}

/// A program where cargo builds for the machines that Trefoil is for.
fn built(program: &str, arguments: &[&str]) -> Command {
    let debug = target().join("x86_64-unknown-linux-gnu/debug");
    let mut command = Command::new(debug.join(program));
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: What, tests: bool) -> Step {
        Step {
            name: "step",
            what,
            tests,
            minutes: 1,
            takes: 100,
            after: &[],
            in_check: false,
        }
    }

    const VERSION: What = What::Cargo(&["--version"]);

    #[test]
    fn a_check_that_ends_well_has_passed() {
        let result = run(
            &step(VERSION, false),
            &Clock::start(Duration::from_secs(60)),
            &Screen::new(1, None),
        );
        assert_eq!((result.passed, result.failed), (1, 0));
    }

    #[test]
    fn the_work_of_a_process_is_in_its_statistics() {
        let stat = "7 (a ) b) Z 1 7 7 0 -1 4 1 2 3 4 100 20 3000 400 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(Duration::from_millis(35_200)));
        assert_eq!(ticks("7 (a) Z 1 7"), None);
    }

    #[test]
    fn what_does_not_run_has_failed() {
        let clock = Clock::start(Duration::from_secs(60));
        for (what, tests, why) in [
            (
                What::Built("no-such-program", &[]),
                true,
                "starting no-such-program",
            ),
            (VERSION, true, "no test has run"),
        ] {
            let result = run(&step(what, tests), &clock, &Screen::new(1, None));
            assert_eq!((result.passed, result.failed), (0, 1));
            assert!(
                result.failures.seen[0].contains(why),
                "{:?}",
                result.failures
            );
        }
        let result = run(
            &step(What::Cargo(&["no-such-command"]), false),
            &clock,
            &Screen::new(1, None),
        );
        assert_eq!((result.passed, result.failed), (0, 1));
    }

    #[test]
    fn what_runs_when_all_time_is_over_is_killed() {
        let result = run(
            &step(VERSION, false),
            &Clock::start(Duration::ZERO),
            &Screen::new(1, None),
        );
        assert_eq!((result.passed, result.failed), (0, 1));
        assert!(
            result.failures.seen[0].contains("killed"),
            "{:?}",
            result.failures
        );
    }
}
