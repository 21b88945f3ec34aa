//! What a step came to, read from what its programs print.

use std::collections::BTreeSet;
use std::time::Duration;

/// What a step came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many passed at once: those that were flaky are not among them.
    pub passed: usize,
    pub failed: usize,
    pub skips: Vec<String>,
    /// What failed and then passed each time it was run again alone, each with its evidence.
    pub flaky: Vec<String>,
    /// How many of these its programs have counted as such. The harness of most counts them as passed.
    pub counted_flaky: usize,
    /// Tests that are not for every machine, and why not for this one.
    pub ignored: Vec<(String, String)>,
    /// The tests that passed, where they are named.
    pub names: BTreeSet<String>,
    /// What failed, each with the beginning of why.
    pub failures: Failures,
    pub time: Duration,
    /// How long processors worked for it: that doesn't depend on what else a machine does.
    pub work: Duration,
}

/// What a step's programs say has failed.
#[derive(Debug, Default)]
pub struct Failures {
    pub seen: Vec<String>,
    /// How many more lines belong to the last one.
    more: usize,
}

impl Outcome {
    /// To be called when all of the step's lines have been counted.
    pub fn settle(&mut self) {
        let as_passed = self.flaky.len().saturating_sub(self.counted_flaky);
        self.passed = self.passed.saturating_sub(as_passed);
        self.counted_flaky = self.flaky.len();
    }

    /// In one line.
    pub fn numbers(&self) -> String {
        numbers(self.passed, self.failed, self.flaky.len(), self.skips.len())
    }
}

/// In one line, as a run's last: `1939 passed, 0 failed, 2 flaky, 79 skipped`.
pub fn numbers(passed: usize, failed: usize, flaky: usize, skipped: usize) -> String {
    let mut line = format!("{passed} passed, {failed} failed");
    for (number, what) in [(flaky, "flaky"), (skipped, "skipped")] {
        if number > 0 {
            line.push_str(&format!(", {number} {what}"));
        }
    }
    line
}

impl Failures {
    /// How much is kept of why something failed.
    const LINES: usize = 8;
    const LENGTH: usize = 1200;

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
    if let Some(flaky) = line.strip_prefix("flaky: ") {
        result.flaky.push(flaky.to_owned());
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
            "flaky" => result.counted_flaky += number,
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
    fn flaky_tests_are_counted_apart_from_both_forms() {
        // libtest-mimic's harness knows of none, and the suites' lines have them.
        for (lines, passed) in [
            (
                [
                    "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
                    "flaky: pods::a # it failed: no such file; run again alone, it passed",
                ],
                8,
            ),
            (
                [
                    "flaky: [k8s.io] spec # it failed: no such file; run again alone, it passed",
                    "106 passed, 0 failed, 1 flaky, 16 skipped",
                ],
                106,
            ),
        ] {
            let mut result = Outcome::default();
            for line in lines {
                count(line, &mut result);
            }
            result.settle();
            result.settle();
            assert_eq!((result.passed, result.failed), (passed, 0));
            assert_eq!(result.flaky.len(), 1);
            assert_eq!(
                result.numbers(),
                format!("{passed} passed, 0 failed, 1 flaky")
            );
        }
    }

    #[test]
    fn the_closing_line_is_read_as_it_is_written() {
        let line = numbers(1939, 0, 2, 79);
        assert_eq!(line, "1939 passed, 0 failed, 2 flaky, 79 skipped");
        let mut result = Outcome::default();
        assert!(count(&line, &mut result));
        assert_eq!(
            (result.passed, result.failed, result.counted_flaky),
            (1939, 0, 2)
        );
        assert_eq!(numbers(3, 1, 0, 0), "3 passed, 1 failed");
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
