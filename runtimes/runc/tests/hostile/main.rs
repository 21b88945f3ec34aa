//! Hostile roots: whatever an image has at the paths that the runtime touches, nothing of the host is
//! reached. Needs root.
//!
//!     HOSTILE_ROOTS=N      how many roots
//!     HOSTILE_SEED=N       which
//!     HOSTILE_RACES=N      how many while something changes places
//!     HOSTILE_SECONDS=N    how long one may take
//!     HOSTILE_FROM=N       from the one of this number on
//!     HOSTILE_TO=N         to this one
//!     HOSTILE_VERBOSE=1    tells of each
//!
//! It has a main function of its own, because whoever forks the helper must have one thread.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking, in its helpers too"
)]

mod bench;
mod canary;
mod case;
mod corpus;
mod extra;
mod harness;
mod host;
mod kind;
mod place;
mod program;
mod races;
mod root;
mod setting;
mod shape;
mod sight;
mod site;
mod watcher;

use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use trefoil_runc::Launcher;

const TESTS: [&str; 4] = [
    "every_touch_is_seen",
    "plain_roots_run",
    "no_root_reaches_out",
    "no_race_reaches_out",
];

fn main() -> ExitCode {
    let wanted = match harness::begin(&TESTS) {
        Ok(wanted) => wanted,
        Err(ended) => return ended,
    };
    let place = place::enter();
    let launcher = Launcher::spawn().unwrap();
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    events.block_on(async { run(Bench::new(place, launcher).await, &wanted).await })
}

/// Runs tests, and tells of them as libtest does.
async fn run(mut bench: Bench, wanted: &[&'static str]) -> ExitCode {
    let began = Instant::now();
    let mut failures = Vec::new();
    for name in wanted {
        let outcome = match *name {
            "every_touch_is_seen" => sight::every_touch_is_seen(&mut bench).await,
            "no_race_reaches_out" => races::no_race_reaches_out(&mut bench).await,
            "plain_roots_run" => corpus::plain_roots_run(&mut bench).await,
            _ => corpus::no_root_reaches_out(&mut bench).await,
        };
        match outcome {
            Ok(()) => println!("test {name} ... ok"),
            Err(why) => {
                println!("test {name} ... FAILED");
                failures.push((*name, why));
            }
        }
    }
    harness::conclude(wanted.len() - failures.len(), &failures, began)
}
