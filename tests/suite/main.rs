//! Everything that must pass, in one go, with one number at the end.
//!
//!     suite [--list] [--check] [part of a step's name]
//!     suite --graph                      which of our crates uses which
//!     TREFOIL_SUITE_SECONDS=N suite      as long as all of it may take
//!
//! With `--check` it is what is asked before each commit: what needs neither containerd nor a guest.
//! `--list` names the steps and runs none.
//!
//! Steps run beside each other as far as two processors go ([`schedule`]), each line of theirs under the
//! step's name. When one ends, a line says what it came to and how far the whole run is: one that is cut
//! short has told where its time went.
//!
//! The last line is `N passed, N failed`, with `, N skipped` if any were; all that was skipped
//! everywhere is listed before, with its reason, and so is what failed: the last lines alone tell.

#[cfg(test)]
mod crates;
mod graph;
mod outcome;
mod run;
mod schedule;
mod slowest;
mod steps;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outcome::Outcome;
use run::Clock;
use steps::STEPS;

/// How long all of it may take, if nothing else is said: CI ends a run after 5400 s, and this one says
/// before what it came to.
const LIMIT: Duration = Duration::from_secs(5280);

/// The variable that says something else.
const LIMIT_VARIABLE: &str = "TREFOIL_SUITE_SECONDS";

fn main() -> Result<ExitCode> {
    let (mut list, mut check, mut part) = (false, false, String::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--list" => list = true,
            "--check" => check = true,
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
    let clock = Clock::start(limit);
    let mut results = schedule::run_all(&steps, |step| run::run(step, &clock))?;
    settle_ignored(&mut results);
    let failed = tell(&results);
    println!("in {} s of {}", clock.now().as_secs(), limit.as_secs());
    println!("{}", sum(&results));
    Ok(ExitCode::from(u8::from(failed)))
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
    println!("\n| step | passed | failed | skipped | seconds |\n|---|---|---|---|---|");
    for (name, result) in results {
        println!(
            "| {name} | {} | {} | {} | {} |",
            result.passed,
            result.failed,
            result.skips.len(),
            result.time.as_secs()
        );
    }
    list(results, "Skipped", |result| result.skips.clone());
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
