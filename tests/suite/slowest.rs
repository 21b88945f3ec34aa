//! Which tests of a step took longest, by when their lines came: programs that run one at a time say of
//! each when it has ended.

use std::fmt;
use std::time::{Duration, Instant};

/// How many are told of.
const MOST: usize = 5;
/// What takes less is not.
const LEAST: Duration = Duration::from_secs(10);

/// The tests of a step with their times.
pub struct Slowest {
    /// When the last one ended.
    last: Instant,
    seen: Vec<(Duration, String)>,
}

impl Slowest {
    pub fn new() -> Self {
        Self {
            last: Instant::now(),
            seen: Vec::new(),
        }
    }

    /// Takes in one line more.
    pub fn read(&mut self, line: &str) {
        let now = Instant::now();
        let time = now.duration_since(self.last);
        // "running 9 tests" is the beginning of the first.
        let Some(rest) = line.strip_prefix("test ") else {
            if line.starts_with("running ") {
                self.last = now;
            }
            return;
        };
        let Some((name, _)) = rest.split_once(" ... ") else {
            return;
        };
        self.last = now;
        if time >= LEAST {
            self.seen.push((time, name.trim_end().to_owned()));
        }
    }
}

impl fmt::Display for Slowest {
    /// `kills::of_vmm 66 s, ...`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen: Vec<_> = self.seen.iter().collect();
        seen.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        for (number, (time, name)) in seen.into_iter().take(MOST).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {} s", time.as_secs())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_took_as_long_as_its_line_did() {
        let mut slowest = Slowest::new();
        for (ago, line) in [
            (100, "running 3 tests"),
            (30, "test a::b    ... ok"),
            (70, "test c ... FAILED"),
            (1, "test d ... ok"),
            (90, "test result: ok. 1 passed; 1 failed"),
        ] {
            slowest.last -= Duration::from_secs(ago);
            slowest.read(line);
        }
        assert_eq!(slowest.to_string(), "c 70 s, a::b 30 s");
    }
}
