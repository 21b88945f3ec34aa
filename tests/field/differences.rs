//! The differences from stock that are meant, and what a trial comes to beside them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::field::seen::Difference;

/// `TRIAL/PART # REASON` on each line that isn't empty or a comment.
const LIST: &str = include_str!("differences.txt");
/// Where it is, for whoever has to change it.
const PATH: &str = "tests/field/differences.txt";

/// The reasons, by trial and part.
pub fn listed() -> Result<BTreeMap<&'static str, &'static str>> {
    let elsewhere = match rig::cgroup::hierarchies()?.len() {
        0 | 1 => " # v1: ",
        _ => " # v2: ",
    };
    LIST.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| !line.contains(elsewhere))
        .map(|line| {
            line.split_once(" # ")
                .with_context(|| format!("{PATH}: no reason is given in {line:?}"))
        })
        .collect()
}

/// What is wrong with a trial's differences beside those that are listed, for all to read.
pub fn judge(
    trial: &str,
    found: &[Difference],
    listed: &BTreeMap<&str, &str>,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    for Difference { part, shown } in found {
        if !listed.contains_key(format!("{trial}/{part}").as_str()) {
            wrong.push(format!("{trial}/{part} (- stock, + ours):{shown}"));
        }
    }
    for name in listed.keys() {
        let part = name.strip_prefix(&format!("{trial}/"));
        if part.is_some_and(|part| found.iter().all(|found| found.part != part)) {
            wrong.push(format!(
                "{name} doesn't differ any more: remove it from {PATH}"
            ));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// What the list holds of trials that there aren't: it excuses nothing and hides a slip.
pub fn unknown(trials: &[&str], listed: &BTreeMap<&str, &str>) -> Result<(), String> {
    let known = |name: &str| {
        name.split_once('/')
            .is_some_and(|(trial, _)| trials.contains(&trial))
    };
    match listed.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(format!("{PATH} lists what there isn't: {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_reason() {
        assert!(listed().unwrap().values().all(|reason| !reason.is_empty()));
    }

    #[test]
    fn a_difference_is_listed_or_wrong() {
        let listed = BTreeMap::from([("a/x", "why")]);
        let found = [Difference {
            part: "x".to_owned(),
            shown: String::new(),
        }];
        assert!(judge("a", &found, &listed).is_ok());
        assert!(judge("b", &found, &listed).is_err());
    }

    #[test]
    fn the_list_only_shrinks() {
        let listed = BTreeMap::from([("a/x", "why")]);
        let said = judge("a", &[], &listed).unwrap_err();
        assert!(said.contains("remove it"), "{said}");
        assert!(unknown(&["a"], &listed).is_ok());
        assert!(unknown(&["b"], &listed).is_err());
    }
}
