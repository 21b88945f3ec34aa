//! Everything that must pass, in one go, with one number at the end.
//!
//!     suite [--list] [--check] [part of a step's name]
//!     suite --graph                      which of our crates uses which
//!     suite --told NAME COMMAND...       runs that, and says how far it is
//!     TREFOIL_SUITE_SECONDS=N suite      as long as all of it may take
//!
//! With `--check` it is what is asked before each commit: what needs neither containerd nor a guest.
//! `--list` names the steps and runs none.
//!
//! Steps run beside each other as far as two processors go ([`schedule`]), each line of theirs under the
//! step's name. When one ends, a line says what it came to and how far the whole run is: one that is cut
//! short has told where its time went.
//!
//! The last line is `N passed, N failed`, with `, N flaky` and `, N skipped` if any were; all that was skipped
//! everywhere is listed before, with its reason, and so is what was flaky and what failed: the last lines
//! alone tell. Flaky is what failed, and then passed each time it was run again alone (`rig::rerun`).

#[cfg(test)]
mod crates;
#[cfg(test)]
mod examples;
mod graph;
mod interrupt;
mod outcome;
mod run;
mod schedule;
mod screen;
mod slowest;
mod steps;
#[cfg(test)]
mod words;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outcome::Outcome;
use run::Clock;
use screen::Screen;
use steps::STEPS;
use trefoil_guest::progress::Progress;

/// How long all of it may take, if nothing else is said: CI ends a run after 5400 s, and this one says
/// before what it came to.
const LIMIT: Duration = Duration::from_secs(5280);

/// The variable that says something else.
const LIMIT_VARIABLE: &str = "TREFOIL_SUITE_SECONDS";

fn main() -> Result<ExitCode> {
    let (mut list, mut check, mut part) = (false, false, String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--check" => check = true,
            "--told" => return told(arguments),
            "--graph" => {
                let packages = graph::packages()?;
                print!("{}", graph::show(&packages));
                let faults = graph::faults(&packages);
                ensure!(faults.is_empty(), "{}", faults.join("; "));
                return Ok(ExitCode::SUCCESS);
            }
            option if option.starts_with("--") => {
                bail!(
                    "unknown option {option}; usage: suite [--list] [--check] [part of a step's name]"
                )
            }
            _ => part = argument,
        }
    }
    let limit = match std::env::var(LIMIT_VARIABLE) {
        Ok(seconds) => Duration::from_secs(
            seconds
                .parse()
                .with_context(|| format!("reading {LIMIT_VARIABLE}={seconds}"))?,
        ),
        Err(_) => LIMIT,
    };
    let steps = schedule::chosen(STEPS, |step| {
        step.name.contains(&part) && (step.in_check || !check)
    });
    if list {
        for step in steps {
            println!("{}: {}", step.name, step.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} steps; what runs after {} s is killed",
        steps.len(),
        limit.as_secs()
    );
    interrupt::watch()?;
    let clock = Clock::start(limit);
    let whole = match (part.is_empty(), check) {
        (true, true) => Some("make check"),
        (true, false) => Some("make test"),
        _ => None,
    };
    let screen = Screen::new(steps.len(), whole);
    let (done, ended) = mpsc::channel();
    let results = thread::scope(|scope| {
        scope.spawn(|| screen.watch(ended));
        let results = schedule::run_all(&steps, schedule::HEAD_START, |step| {
            run::run(step, &clock, &screen)
        });
        drop::<mpsc::Sender<()>>(done);
        results
    });
    let mut results = results?;
    settle_ignored(&mut results);
    let failed = tell(&results);
    screen.all_ended(!failed);
    let work: Duration = results.iter().map(|(_, result)| result.work).sum();
    println!(
        "in {} s of {}, with {} s of processors' work",
        clock.now().as_secs(),
        limit.as_secs(),
        work.as_secs()
    );
    println!("{}", sum(&results));
    Ok(ExitCode::from(u8::from(failed)))
}

/// Runs a program that says for itself what it does, and says how long that has taken and took last time.
fn told(mut arguments: impl Iterator<Item = String>) -> Result<ExitCode> {
    let (Some(name), Some(program)) = (arguments.next(), arguments.next()) else {
        bail!("usage: suite --told NAME COMMAND [ARGUMENT]...");
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let status = Progress::new(&name).of_child(&mut command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

type Results = [(&'static str, Outcome)];

/// A test that is ignored in one place and passes in another was not skipped.
fn settle_ignored(results: &mut Results) {
    let passed_somewhere: BTreeSet<String> = results
        .iter()
        .flat_map(|(_, result)| result.names.iter().cloned())
        .collect();
    for (_, result) in results {
        for (name, reason) in std::mem::take(&mut result.ignored) {
            if !passed_somewhere.contains(&name) {
                result.skips.push(format!("{name} # {reason}"));
            }
        }
    }
}

/// Shows what each step came to, what was skipped and what failed. Whether anything did.
fn tell(results: &Results) -> bool {
    println!("\n| step | passed | failed | flaky | skipped | seconds | of a processor |");
    println!("|---|---|---|---|---|---|---|");
    for (name, result) in results {
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            result.passed,
            result.failed,
            result.flaky.len(),
            result.skips.len(),
            result.time.as_secs(),
            result.work.as_secs()
        );
    }
    list(results, "Skipped", |result| result.skips.clone());
    list(results, "Flaky", |result| result.flaky.clone());
    list(results, "Failed", |result| {
        if result.failed > 0 && result.failures.seen.is_empty() {
            return vec!["as a whole".to_owned()];
        }
        result.failures.seen.clone()
    });
    println!();
    results.iter().any(|(_, result)| result.failed > 0)
}

fn list(results: &Results, title: &str, of: impl Fn(&Outcome) -> Vec<String>) {
    let mut title = Some(title);
    for (name, result) in results {
        for line in of(result) {
            if let Some(title) = title.take() {
                println!("\n{title}:");
            }
            println!("  {name}: {line}");
        }
    }
}

fn sum(results: &Results) -> String {
    let sum = |of: fn(&Outcome) -> usize| results.iter().map(|(_, result)| of(result)).sum();
    outcome::numbers(
        sum(|result| result.passed),
        sum(|result| result.failed),
        sum(|result| result.flaky.len()),
        sum(|result| result.skips.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_here_and_passes_there_was_not_skipped() {
        let ignored = |name: &str| (name.to_owned(), "not here".to_owned());
        let here = Outcome {
            ignored: vec![ignored("a"), ignored("b")],
            ..Outcome::default()
        };
        let there = Outcome {
            names: BTreeSet::from(["a".to_owned()]),
            passed: 1,
            ..Outcome::default()
        };
        let mut results = [("here", here), ("there", there)];
        settle_ignored(&mut results);
        assert_eq!(results[0].1.skips, ["b # not here"]);
        assert_eq!(sum(&results), "1 passed, 0 failed, 1 skipped");
        assert!(!tell(&results));
    }
}
