//! Every field of the runtime specification, set in a real container and looked at from inside, or
//! refused by its name. `src/fields/table.rs` says which test holds which field. Needs root.
//!
//! It has a main function of its own, because whoever forks the helper must have one thread.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking, in its helpers too"
)]

/// The tests of a file, by their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[crate::Test] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}

mod bench;
mod blocks;
mod devices;
#[path = "../hostile/harness.rs"]
mod harness;
mod hooks;
mod linux;
mod mounts;
mod namespaces;
#[path = "../hostile/place.rs"]
#[allow(dead_code, reason = "this test has no canary")]
mod place;
mod process;
mod resources;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use trefoil_runc::Launcher;

type Test = (&'static str, fn(&Bench));

const FILES: [&[Test]; 8] = [
    process::TESTS,
    mounts::TESTS,
    namespaces::TESTS,
    devices::TESTS,
    linux::TESTS,
    resources::TESTS,
    blocks::TESTS,
    hooks::TESTS,
];

fn main() -> ExitCode {
    let tests = FILES.concat();
    let names: Vec<_> = tests.iter().map(|(name, _)| *name).collect();
    let wanted = match harness::begin(&names) {
        Ok(wanted) => wanted,
        Err(ended) => return ended,
    };
    let place = place::enter();
    let bench = Bench::new(place, Launcher::spawn().unwrap());
    let wanted = tests.iter().filter(|(name, _)| wanted.contains(name));
    run(&bench, &wanted.copied().collect::<Vec<_>>())
}

/// Runs tests, and tells of them as libtest does.
fn run(bench: &Bench, wanted: &[Test]) -> ExitCode {
    let began = Instant::now();
    let mut failures = Vec::new();
    for (name, test) in wanted {
        match catch_unwind(AssertUnwindSafe(|| test(bench))) {
            Ok(()) => println!("test {name} ... ok"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failures.push((*name, "it panicked: see above".to_owned()));
            }
        }
    }
    harness::conclude(wanted.len() - failures.len(), &failures, began)
}
