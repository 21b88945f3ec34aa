//! Everything that must pass, in one go, with one number at the end.
//!
//!     suite [part of a step's name]
//!
//! Steps that take one processor each run two at a time, each line of theirs under the step's name.
//!
//! The last line is `N passed, N failed`, with `, N skipped` if any were; all that was skipped
//! everywhere is listed before, with its reason, and so is what failed: the last lines alone tell.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A step and the arguments of cargo that it is.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    /// It is made of tests and says how many passed; one that says nothing did not run them.
    tests: bool,
    /// The longest it may take; one that hangs must not keep the others from being told of.
    minutes: u64,
    /// It takes one processor at most, as a node does, and may run beside another such step.
    one_processor: bool,
}

impl Step {
    /// A check as a whole.
    const fn check(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            arguments,
            tests: false,
            minutes: 30,
            one_processor: false,
        }
    }

    const fn tests(name: &'static str, minutes: u64, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            arguments,
            tests: true,
            minutes,
            one_processor: false,
        }
    }

    const fn on_one_processor(
        name: &'static str,
        minutes: u64,
        arguments: &'static [&'static str],
    ) -> Self {
        Self {
            one_processor: true,
            ..Self::tests(name, minutes, arguments)
        }
    }
}

const STEPS: &[Step] = &[
    Step::check("format", &["fmt", "--all", "--check"]),
    Step::check(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // `--all-targets` leaves out what is no part of `cargo test`.
    Step::check(
        "lints of the node's trials",
        &[
            "clippy",
            "-p",
            "trefoil-tests",
            "--test",
            "node-trials",
            "--",
            "-D",
            "warnings",
        ],
    ),
    Step::tests(
        "tests of the crates",
        20,
        &["test", "--workspace", "--no-fail-fast"],
    ),
    // Eight minutes of a processor where it isn't in the cache.
    Step::check(
        "guest kernel",
        &["run", "--quiet", "-p", "trefoil-guest", "--", "kernel"],
    ),
    Step::check(
        "guest image, built twice",
        &[
            "run",
            "--quiet",
            "-p",
            "trefoil-guest",
            "--",
            "image",
            "--verify",
        ],
    ),
    // Two long links, each on one processor. The agent once: it is built as the image is.
    Step {
        one_processor: true,
        ..Step::check(
            "agent",
            &["run", "--quiet", "-p", "trefoil-guest", "--", "agent"],
        )
    },
    Step {
        one_processor: true,
        ..Step::check("release build", &["build", "--release"])
    },
    // Eleven targets, two at a time, and some minutes to build them. `make fuzz` takes its time.
    Step::tests(
        "fuzz targets, 10 s each",
        25,
        &[
            "run",
            "--quiet",
            "-p",
            "trefoil-tests",
            "--bin",
            "fuzz",
            "--",
            "--seconds",
            "10",
        ],
    ),
    // These wait more than they work.
    Step::on_one_processor("end to end", 15, &tests_program("e2e")),
    Step::on_one_processor("conformance", 30, &tests_program("conformance")),
    Step::on_one_processor("public reports beside stock", 15, &tests_program("field")),
    Step::on_one_processor(
        "containerd's client suite",
        20,
        &tests_program_with("conformance", ["--", "--suite=client"]),
    ),
    // The longest first, so that both processors have something to do to the end.
    Step::on_one_processor(
        "microVM pods end to end",
        45,
        &tests_program_with("e2e", ["--", "--handler=trefoil-vm"]),
    ),
    // QEMU's machines have to pass the same trials, which shows the trials to be right, but not each
    // time: `vmm -- qemu::`.
    Step::on_one_processor(
        "machines and devices",
        45,
        &tests_program_with("vmm", ["--", "trefoil::"]),
    ),
    // All of critest, but what tests/conformance/not-as-microvm.txt lists.
    Step::on_one_processor(
        "conformance of microVM pods",
        30,
        &[
            "run",
            "--quiet",
            "-p",
            "trefoil-tests",
            "--bin",
            "conformance",
            "--",
            "--handler",
            "trefoil-vm",
        ],
    ),
    Step::on_one_processor(
        "end to end, in the node",
        30,
        &tests_program_with("e2e", IN_NODE),
    ),
    Step::on_one_processor(
        "conformance, in the node",
        20,
        &tests_program_with("conformance", IN_NODE),
    ),
    Step::on_one_processor(
        "tests of the crates, in the node",
        25,
        &tests_program("crates-in-node"),
    ),
    Step::on_one_processor("guest boots", 10, &tests_program("guest-boot")),
    Step::on_one_processor(
        "the node",
        10,
        &["test", "-p", "trefoil-tests", "--test", "node-trials"],
    ),
];

const fn tests_program(name: &str) -> [&str; 6] {
    ["run", "--quiet", "-p", "trefoil-tests", "--bin", name]
}

const IN_NODE: [&str; 2] = ["--", "--in-node"];

const fn tests_program_with<'a>(name: &'a str, arguments: [&'a str; 2]) -> [&'a str; 8] {
    let [run, quiet, option, package, bin, name] = tests_program(name);
    let [dashes, argument] = arguments;
    [run, quiet, option, package, bin, name, dashes, argument]
}

/// What a step came to.
#[derive(Default)]
struct Outcome {
    passed: usize,
    failed: usize,
    skips: Vec<String>,
    /// Tests that are not for every machine, and why not for this one.
    ignored: Vec<(String, String)>,
    /// The tests that passed, where they are named.
    names: BTreeSet<String>,
    /// What failed, each with the beginning of why.
    failures: Failures,
    time: Duration,
}

fn main() -> Result<ExitCode> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| step.name.contains(&wanted))
        .collect();
    let mut results = Vec::new();
    for together in steps.chunk_by(|a, b| a.one_processor && b.one_processor) {
        results.extend(run_all(together)?);
    }
    // A test that is ignored in one place and passes in another was not skipped.
    let passed_somewhere: BTreeSet<String> = results
        .iter()
        .flat_map(|(_, result)| result.names.iter().cloned())
        .collect();
    for (_, result) in &mut results {
        for (name, reason) in std::mem::take(&mut result.ignored) {
            if !passed_somewhere.contains(&name) {
                result.skips.push(format!("{name} # {reason}"));
            }
        }
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
    if failed > 0 {
        println!("\nFailed:");
    }
    for (name, result) in &results {
        if result.failed > 0 && result.failures.seen.is_empty() {
            println!("  {name}: as a whole");
        }
        for failure in &result.failures.seen {
            println!("  {name}: {failure}");
        }
    }
    println!();
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// How many steps that take one processor each run at a time.
const AT_A_TIME: usize = 2;

/// Runs steps that may run beside each other; the outcomes are in their order.
fn run_all(steps: &[&'static Step]) -> Result<Vec<(&'static str, Outcome)>> {
    if let [step] = steps {
        println!("\n== {}: cargo {}", step.name, step.arguments.join(" "));
        return Ok(vec![(step.name, run(step, "")?)]);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(step) = steps.get(number) else {
                return anyhow::Ok(done);
            };
            println!("\n== {}: cargo {}", step.name, step.arguments.join(" "));
            let outcome = run(step, &format!("{} | ", step.name))?;
            done.push((number, step.name, outcome));
        }
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        let mut done = Vec::new();
        for worker in workers {
            let some = worker
                .join()
                .map_err(|_| anyhow!("a step's thread ended"))??;
            done.extend(some);
        }
        anyhow::Ok(done)
    })?;
    done.sort_by_key(|(number, ..)| *number);
    Ok(done
        .into_iter()
        .map(|(_, name, outcome)| (name, outcome))
        .collect())
}

/// Runs a step, showing what it prints, each line after `before`, and counts in it what its programs
/// say they did.
fn run(step: &Step, before: &str) -> Result<Outcome> {
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
    let limit = Duration::from_secs(step.minutes * 60);
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let watch = thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
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
        drop(writeln!(std::io::stdout(), "{before}{line}"));
        counted |= count(&line, &mut result);
        result.failures.read(&line);
    }
    drop(done);
    let late = watch.join().unwrap_or_default();
    let status = child.wait()?;
    if late {
        println!("{before}still running after {limit:?}, and killed");
        let failure = format!("still running after {limit:?}, and killed");
        result.failures.seen.push(failure);
    }
    if !step.tests && !counted {
        result.passed = usize::from(status.success());
    }
    if step.tests && result.passed + result.failed == 0 {
        println!("{before}no test has run");
        result.failed = 1;
    }
    if !status.success() && result.failed == 0 {
        // It could not run, or not to its end.
        result.failed = 1;
    }
    result.time = started.elapsed();
    Ok(result)
}

/// What a step's programs say has failed.
#[derive(Default)]
struct Failures {
    seen: Vec<String>,
    /// How many more lines belong to the last one.
    more: usize,
}

impl Failures {
    /// How much is kept of why something failed.
    const LINES: usize = 4;
    const LENGTH: usize = 400;

    fn read(&mut self, line: &str) {
        // libtest's "---- NAME stdout ----", libtest-mimic's "---- NAME ----", and "FAILED NAME" and
        // "NAME: FAILED: WHY" of programs of ours.
        let heading = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" ----"))
            .map(|name| name.trim_end_matches(" stdout"))
            .or_else(|| line.strip_prefix("FAILED "))
            .or_else(|| line.contains(": FAILED: ").then_some(line));
        if let Some(heading) = heading {
            self.seen.push(heading.to_owned());
            self.more = Self::LINES;
            return;
        }
        let text = line.trim();
        if self.more == 0 || text.is_empty() {
            return;
        }
        self.more -= 1;
        if let Some(last) = self.seen.last_mut()
            && last.len() < Self::LENGTH
        {
            last.push_str(" | ");
            last.extend(text.chars().take(Self::LENGTH));
        }
    }
}

/// Takes the numbers out of a line, if it is one with numbers.
fn count(line: &str, result: &mut Outcome) -> bool {
    if let Some(skip) = line.strip_prefix("skipped: ") {
        result.skips.push(skip.to_owned());
        return false;
    }
    // libtest's: "test NAME ... ok", with spaces after the name where it aligns them.
    if let Some(name) = line
        .strip_prefix("test ")
        .and_then(|rest| rest.strip_suffix(" ... ok"))
    {
        result.names.insert(name.trim_end().to_owned());
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
            let reason = reason.trim_start_matches(", ").to_owned();
            result.ignored.push((name.to_owned(), reason));
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
    fn failures_are_told_with_the_beginning_of_why() {
        let mut failures = Failures::default();
        for line in [
            "running 3 tests",
            "test a ... FAILED",
            "---- a stdout ----",
            "",
            "thread 'a' panicked at here:",
            "1 is not 2",
            "FAILED [sig] spec",
            "       it stood still",
            "bus: FAILED: no corpus",
        ] {
            failures.read(line);
        }
        assert_eq!(
            failures.seen,
            [
                "a | thread 'a' panicked at here: | 1 is not 2",
                "[sig] spec | it stood still",
                "bus: FAILED: no corpus"
            ]
        );
    }

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
        assert!(!count("test c    ... ok", &mut result));
        assert_eq!((result.passed, result.failed), (146, 10));
        assert!(result.names.iter().eq(["c"]));
        assert_eq!(result.skips, ["a # because"]);
        assert_eq!(result.ignored, [("b".into(), "not here".into())]);
    }
}
