//! The parent's side, with machines that are none: this program again, in a role.
//!
//! A role is what the program is called by. Trials run one after the other, as some of them count
//! the process's descriptors.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod roles;
mod trials;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    if let Some((_, role)) = roles::ROLES.iter().find(|(role, _)| *role == name) {
        role();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = trials::TRIALS.iter().map(|&(name, body)| {
        Trial::test(name, move || {
            body();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
