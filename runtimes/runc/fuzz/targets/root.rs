//! Any root under any configuration: the hostile corpus's containers (`tests/hostile/`), with the fuzzer
//! choosing what is unusual about them. It takes root.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a finding is a panic; the corpus's own tests use more of these modules"
)]

#[path = "../../tests/hostile/bench.rs"]
mod bench;
#[path = "../../tests/hostile/canary.rs"]
mod canary;
#[path = "../../tests/hostile/case.rs"]
mod case;
mod coverage;
#[path = "../../tests/hostile/extra.rs"]
mod extra;
#[path = "../../tests/hostile/host.rs"]
mod host;
#[path = "../../tests/hostile/kind.rs"]
mod kind;
#[path = "../../tests/hostile/place.rs"]
mod place;
#[path = "../../tests/hostile/program.rs"]
mod program;
#[path = "../../tests/hostile/root.rs"]
mod root;
#[path = "../../tests/hostile/setting.rs"]
mod setting;
#[path = "../../tests/hostile/shape.rs"]
mod shape;
#[path = "../../tests/hostile/site.rs"]
mod site;
#[path = "../../tests/hostile/watcher.rs"]
mod watcher;

use std::cell::RefCell;

use bench::Bench;
use case::Case;
use tokio::runtime::Runtime;
use trefoil_runc::Launcher;

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// What makes the containers, one for all inputs.
struct Server {
    events: Runtime,
    bench: Bench,
    made: u64,
}

impl Server {
    /// The calling process must be single-threaded still.
    fn new() -> Self {
        coverage::share();
        let place = place::enter();
        let launcher = Launcher::spawn().unwrap();
        let events = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bench = events.block_on(Bench::new(place, launcher));
        Self {
            events,
            bench,
            made: 0,
        }
    }

    fn run(&mut self, bytes: &[u8]) {
        self.made += 1;
        let case = Case {
            number: self.made,
            ..case::from_bytes(bytes)
        };
        let report = self.events.block_on(self.bench.run(&case));
        assert!(report.faults.is_empty(), "{case}: {report:?}");
    }
}

libfuzzer_sys::fuzz_target!(
    init: SERVER.with(|server| *server.borrow_mut() = Some(Server::new())),
    |bytes: &[u8]| SERVER.with(|server| server.borrow_mut().as_mut().unwrap().run(bytes))
);
