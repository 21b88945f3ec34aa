//! What a step came to, read from what its programs print.

use std::collections::BTreeSet;
use std::time::Duration;

/// What a step came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
    pub skips: Vec<String>,
    /// Tests that are not for every machine, and why not for this one.
    pub ignored: Vec<(String, String)>,
    /// The tests that passed, where they are named.
    pub names: BTreeSet<String>,
    /// What failed, each with the beginning of why.
    pub failures: Failures,
    pub time: Duration,
}

/// What a step's programs say has failed.
#[derive(Debug, Default)]
pub struct Failures {
    pub seen: Vec<String>,
    /// How many more lines belong to the last one.
    more: usize,
}

/// In one line, as a run's last.
pub fn numbers(passed: usize, failed: usize, skipped: usize) -> String {
    match skipped {
        0 => format!("{passed} passed, {failed} failed"),
        _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
}

impl Failures {
    /// How much is kept of why something failed.
    const LINES: usize = 4;
    const LENGTH: usize = 400;

    /// Takes in one line more.
    pub fn read(&mut self, line: &str) {
        // libtest's "---- NAME stdout ----", libtest-mimic's "---- NAME ----", and "FAILED NAME" and
        // "NAME: FAILED: WHY" of programs of ours.
        let heading = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" ----"))
            .map(|name| name.trim_end_matches(" stdout"))
            .or_else(|| line.strip_prefix("FAILED "))
            .or_else(|| line.contains(": FAILED: ").then_some(line));
        if let Some(heading) = heading {
            self.seen.push(heading.to_owned());
            self.more = Self::LINES;
            return;
        }
        let text = line.trim();
        if self.more == 0 || text.is_empty() {
            return;
        }
        self.more -= 1;
        if let Some(last) = self.seen.last_mut()
            && last.len() < Self::LENGTH
        {
            last.push_str(" | ");
            last.extend(text.chars().take(Self::LENGTH));
        }
    }
}

/// Takes the numbers out of a line, if it is one with numbers.
pub fn count(line: &str, result: &mut Outcome) -> bool {
    if let Some(skip) = line.strip_prefix("skipped: ") {
        result.skips.push(skip.to_owned());
        return false;
    }
    // libtest's: "test NAME ... ok", with spaces after the name where it aligns them.
    if let Some(name) = line
        .strip_prefix("test ")
        .and_then(|rest| rest.strip_suffix(" ... ok"))
    {
        result.names.insert(name.trim_end().to_owned());
        return false;
    }
    // libtest's: "test NAME ... ignored, REASON"
    if let Some((name, reason)) = line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... ignored"))
    {
        let name = name.trim_end();
        // Some harnesses of ours have given the reason before.
        if !result
            .skips
            .iter()
            .any(|skip| skip.starts_with(&format!("{name} #")))
        {
            let reason = reason.trim_start_matches(", ").to_owned();
            result.ignored.push((name.to_owned(), reason));
        }
        return false;
    }
    // "test result: ok. 3 passed; 0 failed; ..." or "3 passed, 0 failed, ..."
    let Some(numbers) = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". "))
        .map(|(_, rest)| rest)
        .or_else(|| {
            line.starts_with(|first: char| first.is_ascii_digit())
                .then_some(line)
        })
    else {
        return false;
    };
    let mut words = numbers
        .split([' ', ',', ';'])
        .filter(|word| !word.is_empty());
    let mut found = false;
    while let (Some(number), Some(what)) = (words.next(), words.next()) {
        let Ok(number) = number.parse::<usize>() else {
            break;
        };
        match what {
            "passed" => result.passed += number,
            "failed" => result.failed += number,
            _ => continue,
        }
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_with_the_beginning_of_why() {
        let mut failures = Failures::default();
        for line in [
            "running 3 tests",
            "test a ... FAILED",
            "---- a stdout ----",
            "",
            "thread 'a' panicked at here:",
            "1 is not 2",
            "FAILED [sig] spec",
            "       it stood still",
            "bus: FAILED: no corpus",
        ] {
            failures.read(line);
        }
        assert_eq!(
            failures.seen,
            [
                "a | thread 'a' panicked at here: | 1 is not 2",
                "[sig] spec | it stood still",
                "bus: FAILED: no corpus"
            ]
        );
    }

    #[test]
    fn numbers_are_taken_from_both_forms() {
        let mut result = Outcome::default();
        assert!(count(
            "test result: FAILED. 47 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out",
            &mut result
        ));
        assert!(count("99 passed, 8 failed, 10 skipped", &mut result));
        assert!(!count("3 blind mice", &mut result));
        assert!(!count("skipped: a # because", &mut result));
        assert!(!count("test b ... ignored, not here", &mut result));
        assert!(!count("test c    ... ok", &mut result));
        assert_eq!((result.passed, result.failed), (146, 10));
        assert!(result.names.iter().eq(["c"]));
        assert_eq!(result.skips, ["a # because"]);
        assert_eq!(result.ignored, [("b".into(), "not here".into())]);
    }
}
