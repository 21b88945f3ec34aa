//! Runs all cases, and counts.

use std::collections::BTreeMap;

use crate::bench::{Bench, Report};
use crate::case::{Case, SINGLE, cases};
use crate::setting::number;
use crate::shape::SHAPES;

/// How many cases, if nothing else is said: every path with every kind, and some more.
const COUNT: usize = SINGLE + 450;
const SEED: u64 = 13;
/// How many faults are told of, one by one.
const MOST_TOLD: usize = 40;

/// How often something went each way.
#[derive(Default)]
struct Tally {
    ran: usize,
    refused: usize,
    faulty: usize,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        match (&report.refused, report.faults.is_empty()) {
            (_, false) => self.faulty += 1,
            (Some(_), true) => self.refused += 1,
            (None, true) => self.ran += 1,
        }
    }
}

/// Containers of which nothing is unusual run, in all shapes.
pub async fn plain_roots_run(bench: &mut Bench) -> Result<(), String> {
    let mut told = Vec::new();
    for (number, shape) in (0..).zip(SHAPES) {
        let case = Case::plain(number, shape);
        let report = bench.run(&case).await;
        if report.refused.is_some() || !report.faults.is_empty() {
            told.push(format!("{case}: {report:?}"));
        }
    }
    verdict(told, String::new())
}

/// No root of the corpus reaches the canary, hangs or leaves anything.
pub async fn no_root_reaches_out(bench: &mut Bench) -> Result<(), String> {
    let count = usize::try_from(number("HOSTILE_ROOTS", COUNT as u64)).unwrap();
    let seed = number("HOSTILE_SEED", SEED);
    let from = number("HOSTILE_FROM", 0);
    let to = number("HOSTILE_TO", u64::MAX);
    let verbose = std::env::var_os("HOSTILE_VERBOSE").is_some();
    let mut told = Vec::new();
    let mut kinds: BTreeMap<String, Tally> = BTreeMap::new();
    let mut all = Tally::default();
    let chosen = |case: &Case| (from..=to).contains(&case.number);
    for case in cases(count, seed).into_iter().filter(chosen) {
        let report = bench.run(&case).await;
        if verbose {
            println!("{case}: {report:?}");
        }
        all.add(&report);
        for (_, kind) in &case.changes {
            kinds.entry(format!("{kind:?}")).or_default().add(&report);
        }
        if !report.faults.is_empty() {
            told.push(format!("{case}: {}", report.faults.join("; ")));
        }
    }
    for (
        kind,
        Tally {
            ran,
            refused,
            faulty,
        },
    ) in &kinds
    {
        println!("    {kind}: {ran} ran, {refused} refused, {faulty} with faults");
    }
    let Tally {
        ran,
        refused,
        faulty,
    } = all;
    let summary = format!("seed {seed}: {ran} ran, {refused} refused, {faulty} with faults");
    println!("    {summary}");
    verdict(told, summary)
}

/// What a test came to.
pub fn verdict(mut told: Vec<String>, summary: String) -> Result<(), String> {
    if told.is_empty() {
        return Ok(());
    }
    let more = told.len().saturating_sub(MOST_TOLD);
    told.truncate(MOST_TOLD);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.push(summary);
    Err(told.join("\n"))
}
