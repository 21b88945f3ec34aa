//! The ports: which ones of the host's the guest may connect to, and which one of the host's a
//! connection to the guest comes from.

use std::ops::RangeInclusive;

/// The first port that connections to the guest come from. Linux's guests, which choose theirs in
/// the same way, begin at random; the two need not differ, as a connection is known by both of its
/// ports.
const FIRST: u32 = 1 << 30;

/// Ranges of ports, in order.
#[derive(Debug)]
pub struct Ports(Vec<RangeInclusive<u32>>);

impl Ports {
    /// Those in any of these ranges.
    pub fn new(mut ranges: Vec<RangeInclusive<u32>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<u32>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start() <= last.end() => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Whether the guest may connect to this one.
    pub fn contains(&self, port: u32) -> bool {
        let behind = self.0.partition_point(|range| *range.start() <= port);
        behind
            .checked_sub(1)
            .and_then(|before| self.0.get(before))
            .is_some_and(|range| range.contains(&port))
    }
}

/// Gives out one port after the other.
#[derive(Debug)]
pub struct Ephemeral(u32);

impl Ephemeral {
    /// Begins anew.
    pub fn new() -> Self {
        Self(FIRST)
    }

    /// The next port that is not `taken`, of which there are at most `most`.
    pub fn next(&mut self, most: usize, taken: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..=most {
            let port = self.0;
            // The last one means "any" to Linux.
            self.0 = match port.checked_add(1) {
                Some(next) if next != u32::MAX => next,
                _ => FIRST,
            };
            if !taken(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_port_is_allowed_where_a_range_has_it(
            ranges in prop::collection::vec((0..100_u32, 0..100_u32), 0..8),
            port in 0..110_u32,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(from, to)| from..=to).collect();
            let expected = ranges.iter().any(|range| range.contains(&port));
            prop_assert_eq!(Ports::new(ranges).contains(port), expected);
        }
    }

    #[test]
    fn all_ports_may_be_allowed() {
        let ports = Ports::new(vec![0..=u32::MAX]);
        assert!(ports.contains(0) && ports.contains(u32::MAX));
        assert!(!Ports::new(Vec::new()).contains(0));
    }

    #[test]
    fn ports_in_use_are_passed_over_and_the_numbers_wrap() {
        let mut ports = Ephemeral::new();
        assert_eq!(ports.next(0, |_| false), Some(FIRST));
        assert_eq!(ports.next(1, |port| port == FIRST + 1), Some(FIRST + 2));
        assert_eq!(ports.next(3, |_| true), None);
        ports.0 = u32::MAX - 1;
        assert_eq!(ports.next(0, |_| false), Some(u32::MAX - 1));
        assert_eq!(ports.next(0, |_| false), Some(FIRST));
    }
}
