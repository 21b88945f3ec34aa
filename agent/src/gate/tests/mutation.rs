//! Whether each check is noticed: without it something passes that has to be denied.

use std::collections::BTreeMap;

use trefoil_policy::{Check, without};

use super::cases::{self, Case};
use super::{generated, named, run};

/// Those that stand where there is nothing to go on with: a request that can't be read, that names what isn't
/// there, or that the pod has nothing to serve it with, would be an error without them, too.
const STRUCTURAL: [Check; 6] = [
    Check::Container,
    Check::Malformed,
    Check::Missing,
    Check::RefreshVolume,
    Check::Unmade,
    Check::Volume,
];

fn all() -> Vec<Case> {
    let mut all = cases::all();
    all.extend(generated::aliens());
    all.extend(generated::out_of_order());
    all.extend(named::all());
    all
}

#[test]
fn every_case_is_denied_by_its_code_and_names_its_field() {
    let all = cases::all();
    assert!(all.len() >= 200, "{}", all.len());
    cases::check(&all);
}

#[test]
fn removing_any_check_lets_something_pass() {
    let mut by_code: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    let all = all();
    let told = cases::check(&all);
    for (case, told) in all.into_iter().zip(told) {
        by_code.entry(told.code).or_default().push(case);
    }
    let mut unnoticed = Vec::new();
    for check in Check::ALL {
        let Some(cases) = by_code.get(check.name()) else {
            unnoticed.push(format!("{check}: no case"));
            continue;
        };
        if STRUCTURAL.contains(check) {
            continue;
        }
        let passes = |case: &Case| without(*check, || run(case.ask())).is_ok();
        if !cases.iter().any(passes) {
            unnoticed.push(format!(
                "{check}: {} cases are denied without it",
                cases.len()
            ));
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
