//! How long each part of a boot took.

use std::fmt;

use trefoil_vmm::metrics::now;

/// The parts that are done, to be said in one line of the log: `processes 12.345, network 1.234`, in
/// milliseconds.
#[derive(Debug)]
pub(crate) struct Phases {
    /// When the last one ended, as [`now`] tells it.
    last: u64,
    text: String,
}

impl Phases {
    /// The first part begins.
    pub fn begin() -> Self {
        Self {
            last: now(),
            text: String::new(),
        }
    }

    /// A part has ended, and the next begins.
    pub fn done(&mut self, what: &str) {
        self.done_at(what, now());
    }

    /// A part has ended at this time, as the VMM's metrics tell it.
    pub fn done_at(&mut self, what: &str, time: u64) {
        let took = time.saturating_sub(self.last);
        let (millis, micros) = (took / 1_000_000, took / 1000 % 1000);
        let comma = if self.text.is_empty() { "" } else { ", " };
        self.text
            .push_str(&format!("{comma}{what} {millis}.{micros:03}"));
        self.last = time;
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_told_in_order() {
        let mut phases = Phases::begin();
        let begun = phases.last;
        phases.done_at("one", begun + 1_023_456_789);
        phases.done_at("two", begun + 1_024_000_000);
        assert_eq!(phases.to_string(), "one 1023.456, two 0.543");
    }
}
