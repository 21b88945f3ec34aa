//! Which steps run when: as many at a time as two processors are enough for, each after those whose work
//! it needs.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::outcome::Outcome;
use crate::steps::Step;

/// How much runs at a time, in percent of a processor.
const ROOM: u32 = 200;

/// How much later the next step begins: two cargos that begin at once take its lock in any order, and the one
/// that compiles would keep out the one that only looks and then runs tests.
pub const HEAD_START: Duration = Duration::from_secs(2);

/// The steps that are asked for, and those that they come after.
pub fn chosen(all: &'static [Step], asked_for: impl Fn(&Step) -> bool) -> Vec<&'static Step> {
    let mut wanted: Vec<bool> = all.iter().map(asked_for).collect();
    // Nobody comes after one that is further down.
    for (number, step) in all.iter().enumerate().rev() {
        if wanted.get(number) == Some(&true) {
            for (other, wanted) in all.iter().zip(&mut wanted) {
                *wanted |= step.after.contains(&other.name);
            }
        }
    }
    let both = all.iter().zip(wanted);
    both.filter_map(|(step, wanted)| wanted.then_some(step))
        .collect()
}

/// How far each step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Runs,
    Done,
}

/// The first step that may begin: what it comes after is done, and there is room for it.
fn next(steps: &[&Step], states: &[State]) -> Option<usize> {
    let taken: u32 = steps
        .iter()
        .zip(states)
        .filter(|(_, state)| **state == State::Runs)
        .map(|(step, _)| step.takes)
        .sum();
    let done = |name: &&str| {
        steps
            .iter()
            .zip(states)
            .all(|(step, state)| step.name != *name || *state == State::Done)
    };
    steps.iter().zip(states).position(|(step, state)| {
        *state == State::Waits && taken + step.takes <= ROOM && step.after.iter().all(done)
    })
}

/// Runs all, each begun `head_start` after the one before at the earliest; the outcomes are in the steps' order.
///
/// # Errors
/// If `run` panicked for one. The others are run to their ends.
pub fn run_all(
    steps: &[&'static Step],
    head_start: Duration,
    run: impl Fn(&Step) -> Outcome + Sync,
) -> Result<Vec<(&'static str, Outcome)>> {
    let states = Mutex::new(vec![State::Waits; steps.len()]);
    let changed = Condvar::new();
    let (run, states, changed) = (&run, &states, &changed);
    thread::scope(|scope| {
        let mut running = Vec::new();
        let mut guard = states.lock().unwrap_or_else(PoisonError::into_inner);
        while guard.contains(&State::Waits) {
            let Some(number) = next(steps, &guard) else {
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (Some(step), Some(state)) = (steps.get(number), guard.get_mut(number)) else {
                break;
            };
            *state = State::Runs;
            let work = move || {
                let outcome = run(step);
                let mut guard = states.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = guard.get_mut(number) {
                    *state = State::Done;
                }
                changed.notify_one();
                (number, step.name, outcome)
            };
            running.push(scope.spawn(work));
            drop(guard);
            thread::sleep(head_start);
            guard = states.lock().unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        let mut outcomes = Vec::new();
        for thread in running {
            let outcome = thread.join();
            outcomes.push(outcome.map_err(|_| anyhow!("a step's thread ended"))?);
        }
        outcomes.sort_by_key(|(number, ..)| *number);
        let named = outcomes.into_iter();
        Ok(named.map(|(_, name, outcome)| (name, outcome)).collect())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::steps::{STEPS, What};

    const fn step(name: &'static str, takes: u32, after: &'static [&'static str]) -> Step {
        Step {
            name,
            what: What::Cargo(&[]),
            tests: false,
            minutes: 1,
            takes,
            after,
            in_check: false,
        }
    }

    static SOME: &[Step] = &[
        step("all", 200, &[]),
        step("one", 100, &["all"]),
        step("other", 100, &[]),
        step("half", 50, &["one"]),
        step("large", 150, &[]),
    ];

    #[test]
    fn what_it_comes_after_is_chosen_too() {
        let names = |part: &str| -> Vec<_> {
            let chosen = chosen(SOME, |step| step.name.contains(part));
            chosen.into_iter().map(|step| step.name).collect()
        };
        assert_eq!(names("half"), ["all", "one", "half"]);
        assert_eq!(names("other"), ["other"]);
        assert_eq!(names("").len(), SOME.len());
    }

    #[test]
    fn the_first_that_may_begins() {
        use State::{Done, Runs, Waits};
        let steps: Vec<&Step> = SOME.iter().collect();
        for (states, expected) in [
            ([Waits, Waits, Waits, Waits, Waits], Some(0)),
            ([Runs, Waits, Waits, Waits, Waits], None),
            ([Done, Waits, Waits, Waits, Waits], Some(1)),
            ([Done, Runs, Waits, Waits, Waits], Some(2)),
            ([Done, Runs, Runs, Waits, Waits], None),
            ([Done, Done, Runs, Waits, Waits], Some(3)),
            ([Done, Done, Runs, Runs, Waits], None),
            ([Done, Done, Done, Runs, Waits], Some(4)),
            ([Done; 5], None),
        ] {
            assert_eq!(next(&steps, &states), expected, "{states:?}");
        }
    }

    #[test]
    fn all_run_in_the_room_there_is() {
        let taken = AtomicU32::new(0);
        let run = |step: &Step| {
            let before = taken.fetch_add(step.takes, Ordering::SeqCst);
            assert!(before + step.takes <= ROOM);
            std::thread::sleep(Duration::from_millis(5));
            taken.fetch_sub(step.takes, Ordering::SeqCst);
            Outcome::default()
        };
        let results = run_all(&SOME.iter().collect::<Vec<_>>(), Duration::ZERO, run).unwrap();
        let names = results.iter().map(|(name, _)| *name);
        assert!(names.eq(SOME.iter().map(|step| step.name)));
    }

    #[test]
    fn every_step_has_room_and_comes_after_earlier_ones() {
        for (number, step) in STEPS.iter().enumerate() {
            assert!((1..=ROOM).contains(&step.takes), "{}", step.name);
            for after in step.after {
                let earlier = STEPS[..number].iter().any(|other| other.name == *after);
                assert!(earlier, "{} after {after}", step.name);
            }
            let again = STEPS[..number].iter().any(|other| other.name == step.name);
            assert!(!again, "{} twice", step.name);
        }
    }
}
