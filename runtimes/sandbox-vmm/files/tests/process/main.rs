//! The parent's side, with this program again as the server.
//!
//! Trials run one after the other, as root.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod trials;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::env::args().next().as_deref() == Some(trials::FORBIDDEN) {
        trials::call_what_is_forbidden();
    }
    if std::env::args().next().as_deref() == Some(trials::SERVER) {
        // SAFETY: nothing has been opened yet.
        let code = unsafe { trefoil_files::serve() };
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
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
