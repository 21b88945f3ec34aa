//! Bytes that tell where they belong: each eight are made of a seed and of their place, so that
//! what is lost, doubled, moved or taken from elsewhere is seen, and nobody has to keep a copy.

use std::fmt;

/// The seed whose pattern is all zeroes: what a disk holds where nothing was written.
pub const ZEROES: u64 = 0;

const WORD: usize = 8;

/// Where bytes are not those of the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The place of the first that is wrong, in the pattern.
    pub at: u64,
    /// What is there.
    pub found: u8,
    /// What should be.
    pub expected: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            found,
            expected,
        } = self;
        write!(
            formatter,
            "byte {at} is {found:#04x} and not {expected:#04x}"
        )
    }
}

/// The bytes of the n-th word.
fn word(seed: u64, number: u64) -> [u8; WORD] {
    if seed == ZEROES {
        return [0; WORD];
    }
    // SplitMix64: far apart for seeds that are near, and fast.
    let mut state = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(number);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state ^ (state >> 31)).to_le_bytes()
}

/// How many of `length` bytes from `offset` on belong to a word that begins before them.
fn rest_of_word(offset: u64, length: usize) -> usize {
    let rest = offset.wrapping_neg() % WORD as u64;
    length.min(rest as usize)
}

/// The bytes of the word that `offset` is in, from there on.
fn word_from(seed: u64, offset: u64) -> impl Iterator<Item = u8> {
    let skip = (offset % WORD as u64) as usize;
    word(seed, offset / WORD as u64).into_iter().skip(skip)
}

/// Fills a buffer with what the pattern has from `offset` on.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let (head, rest) = buffer.split_at_mut(rest_of_word(offset, buffer.len()));
    for (to, from) in head.iter_mut().zip(word_from(seed, offset)) {
        *to = from;
    }
    let mut place = offset.wrapping_add(head.len() as u64);
    let mut words = rest.chunks_exact_mut(WORD);
    for to in &mut words {
        to.copy_from_slice(&word(seed, place / WORD as u64));
        place = place.wrapping_add(WORD as u64);
    }
    for (to, from) in words
        .into_remainder()
        .iter_mut()
        .zip(word_from(seed, place))
    {
        *to = from;
    }
}

/// Compares a buffer with what the pattern has from `offset` on.
pub fn check(seed: u64, offset: u64, buffer: &[u8]) -> Result<(), Difference> {
    let (head, rest) = buffer.split_at(rest_of_word(offset, buffer.len()));
    let mut place = offset;
    compare(seed, place, head)?;
    place = place.wrapping_add(head.len() as u64);
    let words = rest.chunks_exact(WORD);
    let tail = words.remainder();
    for found in words {
        if found != word(seed, place / WORD as u64) {
            compare(seed, place, found)?;
        }
        place = place.wrapping_add(WORD as u64);
    }
    compare(seed, place, tail)
}

/// Compares a part of a word byte by byte.
fn compare(seed: u64, offset: u64, part: &[u8]) -> Result<(), Difference> {
    for ((at, &found), expected) in (offset..).zip(part).zip(word_from(seed, offset)) {
        if found != expected {
            return Err(Difference {
                at,
                found,
                expected,
            });
        }
    }
    Ok(())
}

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Numbers {
    seed: u64,
    next: u64,
}

impl Numbers {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed: seed.max(1),
            next: 0,
        }
    }

    /// The next one that is less than `limit`; zero if none can be.
    pub fn below(&mut self, limit: u64) -> u64 {
        let number = u64::from_le_bytes(word(self.seed, self.next));
        self.next = self.next.wrapping_add(1);
        number.checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_wherever_it_is_cut() {
        let mut whole = [0; 100];
        fill(7, 1000, &mut whole);
        for from in 0..20 {
            for length in [0, 1, 7, 8, 9, 40] {
                let mut part = vec![0; length];
                fill(7, 1000 + from as u64, &mut part);
                assert_eq!(part, whole[from..from + length]);
                assert_eq!(check(7, 1000 + from as u64, &part), Ok(()));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let mut bytes = [0; 64];
        fill(7, 4096, &mut bytes);
        assert!(check(8, 4096, &bytes).is_err());
        assert!(check(7, 4104, &bytes).is_err());
        let right = bytes[21];
        bytes[21] ^= 1;
        let difference = check(7, 4096, &bytes).unwrap_err();
        let expected = Difference {
            at: 4096 + 21,
            found: right ^ 1,
            expected: right,
        };
        assert_eq!(difference, expected);
    }

    #[test]
    fn the_pattern_of_zeroes_is_zeroes() {
        let mut bytes = [1; 33];
        fill(ZEROES, 5, &mut bytes);
        assert_eq!(bytes, [0; 33]);
    }

    #[test]
    fn numbers_are_below_their_limit_and_differ() {
        let mut numbers = Numbers::new(1);
        let some: Vec<u64> = (0..100).map(|_| numbers.below(1000)).collect();
        assert!(some.iter().all(|number| *number < 1000));
        assert!(some.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(numbers.below(0), 0);
    }
}
