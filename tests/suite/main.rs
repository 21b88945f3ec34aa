//! Everything that must pass, in one go, with one number at the end.
//!
//!     suite [part of a step's name]
//!
//! The last line is `N passed, N failed`, with `, N skipped` if any were; all that was skipped is
//! listed before, with its reason.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A step and the arguments of cargo that it is.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        arguments: &["fmt", "--all", "--check"],
    },
    Step {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    },
    Step {
        name: "tests of the crates",
        arguments: &["test", "--workspace", "--no-fail-fast"],
    },
    Step {
        name: "release build",
        arguments: &["build", "--release"],
    },
    Step {
        name: "end to end",
        arguments: &["run", "--quiet", "-p", "trefoil-tests", "--bin", "e2e"],
    },
    Step {
        name: "conformance",
        arguments: &[
            "run",
            "--quiet",
            "-p",
            "trefoil-tests",
            "--bin",
            "conformance",
        ],
    },
];

/// The longest a step may take; a test that hangs must not keep the others from being told of.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What a step came to.
#[derive(Default)]
struct Outcome {
    passed: usize,
    failed: usize,
    skips: Vec<String>,
    time: Duration,
}

fn main() -> Result<ExitCode> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut results = Vec::new();
    for step in STEPS.iter().filter(|step| step.name.contains(&wanted)) {
        println!("\n== {}: cargo {}", step.name, step.arguments.join(" "));
        results.push((step.name, run(step)?));
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!("\n| step | passed | failed | skipped | seconds |\n|---|---|---|---|---|");
    for (name, result) in &results {
        let skips = result.skips.len();
        println!(
            "| {name} | {} | {} | {skips} | {} |",
            result.passed,
            result.failed,
            result.time.as_secs()
        );
        passed += result.passed;
        failed += result.failed;
        skipped += skips;
    }
    if skipped > 0 {
        println!("\nSkipped:");
    }
    for (name, result) in &results {
        for skip in &result.skips {
            println!("  {name}: {skip}");
        }
    }
    println!();
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Runs a step, showing what it prints, and counts in it what its programs say they did.
fn run(step: &Step) -> Result<Outcome> {
    let started = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(step.arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A group of its own, to end all of it if it hangs.
        .process_group(0)
        .spawn()
        .context("starting cargo")?;
    let (done, ended) = mpsc::channel::<()>();
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let watch = thread::spawn(move || {
        let late = ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            // Not reaped before this thread has been told of its end: the id is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
        late
    });
    let mut result = Outcome::default();
    let mut counted = false;
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        // One that reads our output may have gone; what we count is no less true.
        drop(writeln!(std::io::stdout(), "{line}"));
        counted |= count(&line, &mut result);
    }
    drop(done);
    let late = watch.join().unwrap_or_default();
    let status = child.wait()?;
    if late {
        println!("still running after {LIMIT:?}, and killed");
    }
    if !counted {
        // A check as a whole.
        result.passed = usize::from(status.success());
    }
    if !status.success() && result.failed == 0 {
        // It could not run, or not to its end.
        result.failed = 1;
    }
    result.time = started.elapsed();
    Ok(result)
}

/// Takes the numbers out of a line, if it is one with numbers.
fn count(line: &str, result: &mut Outcome) -> bool {
    if let Some(skip) = line.strip_prefix("skipped: ") {
        result.skips.push(skip.to_owned());
        return false;
    }
    // libtest's: "test NAME ... ignored, REASON"
    if let Some((name, reason)) = line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... ignored"))
    {
        let name = name.trim_end();
        // Some harnesses of ours have given the reason before.
        if !result
            .skips
            .iter()
            .any(|skip| skip.starts_with(&format!("{name} #")))
        {
            result
                .skips
                .push(format!("{name} # {}", reason.trim_start_matches(", ")));
        }
        return false;
    }
    // "test result: ok. 3 passed; 0 failed; ..." or "3 passed, 0 failed, ..."
    let Some(numbers) = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". "))
        .map(|(_, rest)| rest)
        .or_else(|| {
            line.starts_with(|first: char| first.is_ascii_digit())
                .then_some(line)
        })
    else {
        return false;
    };
    let mut words = numbers
        .split([' ', ',', ';'])
        .filter(|word| !word.is_empty());
    let mut found = false;
    while let (Some(number), Some(what)) = (words.next(), words.next()) {
        let Ok(number) = number.parse::<usize>() else {
            break;
        };
        match what {
            "passed" => result.passed += number,
            "failed" => result.failed += number,
            _ => continue,
        }
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_from_both_forms() {
        let mut result = Outcome::default();
        assert!(count(
            "test result: FAILED. 47 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out",
            &mut result
        ));
        assert!(count("99 passed, 8 failed, 10 skipped", &mut result));
        assert!(!count("3 blind mice", &mut result));
        assert!(!count("skipped: a # because", &mut result));
        assert!(!count("test b ... ignored, not here", &mut result));
        assert_eq!((result.passed, result.failed), (146, 10));
        assert_eq!(result.skips, ["a # because", "b # not here"]);
    }
}
