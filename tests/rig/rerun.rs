//! What fails is run again, alone, so that a failure that says nothing about Trefoil is told as such.
//!
//! A trial or spec that fails is run three times more, with nothing of the same program beside it, and each
//! time the stock handler is asked for the same, where it can be. One that then passes each time is *flaky*:
//! it is counted as such and told with its evidence. One that fails again has failed. So has each further one
//! after the first [`MOST`], and one for which too little of the step's time is left.
//!
//! A flaky trial is told in one line, `flaky: NAME # EVIDENCE`, on standard output: so it reaches the suite
//! from the test VM as well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often one that failed has to pass.
pub const TIMES: u32 = 3;

/// How many are run again in one run of a program. Where more fail, something is wrong.
pub const MOST: usize = 3;

/// The variable that says how many seconds the program may run.
pub const VARIABLE: &str = "TREFOIL_STEP_SECONDS";

/// How much of a message is told, in characters: of its beginning, where it says what failed, and of its end,
/// where it says why.
const BEGINNING: usize = 160;
const END: usize = 300;

/// When the program began; the first call decides.
pub fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

/// How long the program may still run, if anybody has said.
pub fn left() -> Option<Duration> {
    let seconds = std::env::var(VARIABLE).ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).saturating_sub(began().elapsed()))
}

/// One run of a trial or spec: why it failed, if it did.
pub type Run<'a> = &'a dyn Fn() -> Result<()>;

/// The reruns of one program.
#[derive(Debug)]
pub struct Reruns {
    /// When all has to be over.
    end: Option<Instant>,
    failed: AtomicUsize,
    /// Held for reading by whoever runs for the first time, for writing by who runs again.
    alone: RwLock<()>,
    flaky: Mutex<Vec<String>>,
}

impl Default for Reruns {
    fn default() -> Self {
        Self::within(left())
    }
}

impl Reruns {
    /// With so much time.
    fn within(left: Option<Duration>) -> Self {
        Self {
            end: left.map(|left| Instant::now() + left),
            failed: AtomicUsize::new(0),
            alone: RwLock::new(()),
            flaky: Mutex::default(),
        }
    }

    /// Runs a trial, and again if it fails. `stock` does the same with the stock handler.
    ///
    /// # Errors
    /// Why it failed, and what came of running it again.
    pub fn attempt(&self, name: &str, ours: Run, stock: Option<Run>) -> Result<(), String> {
        let (first, took) = {
            let _beside_others = self.alone.read().unwrap_or_else(PoisonError::into_inner);
            let started = Instant::now();
            match ours() {
                Ok(()) => return Ok(()),
                Err(error) => (format!("{error:#}"), started.elapsed()),
            }
        };
        self.again(name, &first, took, ours, stock)
    }

    /// Runs again what failed for the reason `first` after it `took` so long.
    ///
    /// # Errors
    /// The first reason, and what came of running it again.
    pub fn again(
        &self,
        name: &str,
        first: &str,
        took: Duration,
        ours: Run,
        stock: Option<Run>,
    ) -> Result<(), String> {
        if self.failed.fetch_add(1, Ordering::SeqCst) >= MOST {
            return Err(format!(
                "{first}\nnot run again: more than {MOST} have failed"
            ));
        }
        let needed = took * TIMES * if stock.is_some() { 2 } else { 1 };
        if self.end.is_some_and(|end| Instant::now() + needed > end) {
            return Err(format!(
                "{first}\nnot run again: that may take {} s, and less is left of the step's time",
                needed.as_secs()
            ));
        }
        let _alone = self.alone.write().unwrap_or_else(PoisonError::into_inner);
        let mut beside = Stock::default();
        for number in 1..=TIMES {
            let outcome = ours();
            if let Some(stock) = stock {
                beside.take(stock());
            }
            if let Err(error) = outcome {
                return Err(format!(
                    "{first}\nrun again alone, it failed at time {number} of {TIMES}: {}; {}",
                    brief(&format!("{error:#}")),
                    beside.told()
                ));
            }
        }
        let mut flaky = self.flaky.lock().unwrap_or_else(PoisonError::into_inner);
        flaky.push(format!(
            "flaky: {name} # it failed: {}; run again alone, it passed {TIMES} of {TIMES} times; {}",
            brief(first),
            beside.told()
        ));
        Ok(())
    }

    /// What was flaky, a line each, to be printed on standard output.
    pub fn flaky(&self) -> Vec<String> {
        let flaky = self.flaky.lock().unwrap_or_else(PoisonError::into_inner);
        flaky.clone()
    }

    /// Prints what was flaky. Not within a trial: its line isn't at its end there.
    pub fn tell(&self) {
        for line in self.flaky() {
            println!("{line}");
        }
    }
}

/// What the stock handler did meanwhile.
#[derive(Default)]
struct Stock {
    asked: u32,
    passed: u32,
    /// Why it failed last.
    why: String,
}

impl Stock {
    fn take(&mut self, outcome: Result<()>) {
        self.asked += 1;
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => self.why = brief(&format!("{error:#}")),
        }
    }

    fn told(&self) -> String {
        let Self { asked, passed, why } = self;
        match (asked, why.as_str()) {
            (0, _) => "stock was not asked".to_owned(),
            (_, "") => format!("stock passed {passed} of {asked} times"),
            _ => format!("stock passed {passed} of {asked} times, and failed: {why}"),
        }
    }
}

/// In one line, and not a long one.
fn brief(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    if length <= BEGINNING + END {
        return line;
    }
    let beginning: String = line.chars().take(BEGINNING).collect();
    let end: String = line.chars().skip(length - END).collect();
    format!("{beginning} … {end}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;

    use super::*;

    /// A trial that fails in the first `failures` of its runs, and how often it has run.
    fn failing(failures: u32, runs: &Cell<u32>) -> impl Fn() -> Result<()> {
        move || {
            runs.set(runs.get() + 1);
            ensure!(runs.get() > failures, "run {}\nfailed", runs.get());
            Ok(())
        }
    }

    #[test]
    fn a_trial_that_passes_runs_once() {
        let (reruns, runs) = (Reruns::within(None), Cell::new(0));
        assert_eq!(reruns.attempt("a", &failing(0, &runs), None), Ok(()));
        assert_eq!(runs.get(), 1);
        assert!(reruns.flaky().is_empty());
    }

    #[test]
    fn a_trial_that_passes_each_time_afterwards_is_flaky() {
        let (reruns, runs, of_stock) = (Reruns::within(None), Cell::new(0), Cell::new(0));
        let (ours, stock) = (failing(1, &runs), failing(1, &of_stock));
        assert_eq!(reruns.attempt("a", &ours, Some(&stock)), Ok(()));
        assert_eq!((runs.get(), of_stock.get()), (4, 3));
        assert_eq!(
            reruns.flaky(),
            [
                "flaky: a # it failed: run 1 failed; run again alone, it passed 3 of 3 times; \
              stock passed 2 of 3 times, and failed: run 1 failed"
            ]
        );
    }

    #[test]
    fn a_trial_that_fails_again_has_failed() {
        let (reruns, runs) = (Reruns::within(None), Cell::new(0));
        let said = reruns.attempt("a", &failing(2, &runs), None).unwrap_err();
        assert_eq!(runs.get(), 2);
        assert_eq!(
            said,
            "run 1\nfailed\nrun again alone, it failed at time 1 of 3: run 2 failed; \
             stock was not asked"
        );
        assert!(reruns.flaky().is_empty());
    }

    #[test]
    fn a_long_message_is_told_by_its_beginning_and_its_end() {
        assert_eq!(brief("it\nfailed"), "it failed");
        let told = brief(&format!("`{}` ended with 125: no memory", "ö".repeat(1000)));
        assert!(told.starts_with("`öö"), "{told}");
        assert!(told.ends_with(" ended with 125: no memory"), "{told}");
        assert_eq!(told.chars().count(), BEGINNING + END + 3);
    }

    #[test]
    fn many_trials_that_fail_are_not_flaky() {
        let reruns = Reruns::within(None);
        for _ in 0..MOST {
            assert_eq!(
                reruns.attempt("a", &failing(1, &Cell::new(0)), None),
                Ok(())
            );
        }
        let runs = Cell::new(0);
        let said = reruns.attempt("b", &failing(1, &runs), None).unwrap_err();
        assert!(said.ends_with("not run again: more than 3 have failed"));
        assert_eq!(runs.get(), 1);
        assert_eq!(reruns.flaky().len(), MOST);
    }

    #[test]
    fn a_trial_is_not_run_again_beyond_the_steps_limit() {
        let reruns = Reruns::within(Some(Duration::from_secs(100)));
        let (runs, took) = (Cell::new(1), Duration::from_secs(20));
        let ours = failing(0, &runs);
        let said = reruns.again("a", "why", took, &ours, Some(&ours));
        assert!(said.unwrap_err().contains("may take 120 s"));
        assert_eq!(reruns.again("a", "why", took, &ours, None), Ok(()));
    }
}
