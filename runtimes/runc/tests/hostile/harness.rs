//! What libtest does for a program of tests that has a main function of its own: choosing tests, and
//! telling of them.

use std::process::ExitCode;
use std::time::Instant;

/// The tests that libtest's arguments ask for.
fn wanted(arguments: &[String], all: &[&'static str]) -> Vec<&'static str> {
    if arguments.iter().any(|argument| argument == "--ignored") {
        return Vec::new();
    }
    let mut filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    let every = filters.peek().is_none();
    let filters: Vec<_> = filters.collect();
    let asked = |name: &&str| every || filters.iter().any(|filter| name.contains(filter.as_str()));
    all.iter().copied().filter(asked).collect()
}

/// Tells which tests would run, if that is what is asked for; else how many will.
fn list(arguments: &[String], wanted: &[&str]) -> bool {
    let asked = arguments.iter().any(|argument| argument == "--list");
    match asked {
        true => wanted.iter().for_each(|name| println!("{name}: test")),
        false => println!("\nrunning {} tests", wanted.len()),
    }
    asked
}

/// Tells how it went.
pub fn conclude(passed: usize, failures: &[(&str, String)], began: Instant) -> ExitCode {
    for (name, why) in failures {
        println!("\n---- {name} stdout ----\n{why}");
    }
    let result = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; \
         finished in {:.2}s\n",
        failures.len(),
        began.elapsed().as_secs_f64()
    );
    ExitCode::from(if failures.is_empty() { 0 } else { 101 })
}

/// Begins a program of tests: takes the helper's part if it is asked to, and answers which tests are to
/// run, or how the program has ended.
pub fn begin(all: &[&'static str]) -> Result<Vec<&'static str>, ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == trefoil_runc::HELPER_ACTION)
    {
        trefoil_runc::run_as_helper();
    }
    let wanted = wanted(&arguments, all);
    if list(&arguments, &wanted) {
        return Err(ExitCode::SUCCESS);
    }
    if wanted.is_empty() {
        return Err(conclude(0, &[], Instant::now()));
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests make containers: run them as root"
    );
    Ok(wanted)
}
