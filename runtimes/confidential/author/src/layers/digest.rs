//! Digests, which are names of blobs and say what they are.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};
use trefoil_core::{Error, Result};
use trefoil_initdata::hex;

/// A digest as images spell it: `sha256:` or `sha512:`, and hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

const ALGORITHMS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

impl Digest {
    /// The algorithm's name, and the digits: both are names of files.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = text.split_once(':').is_some_and(|(algorithm, digits)| {
            ALGORITHMS.contains(&(algorithm, digits.len()))
                && digits
                    .bytes()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        });
        match known {
            true => Ok(Self(text.to_owned())),
            false => {
                let shown: String = text.chars().take(100).collect();
                Err(Error::invalid(format!(
                    "{shown:?} is no digest: there are sha256: and sha512:, with all their digits in small letters"
                )))
            }
        }
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What hashes bytes by a digest's algorithm.
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn digits(&self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.clone().finalize()),
            Self::Sha512(hasher) => hex(&hasher.clone().finalize()),
        }
    }
}

/// Bytes that are hashed as they are read. At their end they must be those of a digest, and as many as were
/// told.
pub struct Verified<R> {
    inner: R,
    hasher: Hasher,
    expected: Digest,
    /// How many may still come.
    left: u64,
    /// Whether there must be as many.
    exact: bool,
}

impl<R: Read> Verified<R> {
    /// Bytes of this digest, which are exactly so many.
    pub fn exactly(inner: R, expected: &Digest, length: u64) -> Self {
        Self::new(inner, expected, length, true)
    }

    /// Bytes of this digest, which are at most so many.
    pub fn at_most(inner: R, expected: &Digest, length: u64) -> Self {
        Self::new(inner, expected, length, false)
    }

    fn new(inner: R, expected: &Digest, left: u64, exact: bool) -> Self {
        let hasher = match expected.parts() {
            ("sha512", _) => Hasher::Sha512(Sha512::new()),
            _ => Hasher::Sha256(Sha256::new()),
        };
        Self {
            inner,
            hasher,
            expected: expected.clone(),
            left,
            exact,
        }
    }

    fn end(&self) -> io::Result<usize> {
        if self.exact && self.left > 0 {
            return Err(invalid(format!("it is {} bytes too short", self.left)));
        }
        match self.hasher.digits() == self.expected.parts().1 {
            true => Ok(0),
            false => Err(invalid(format!("it is not what {} is of", self.expected))),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            return self.end();
        }
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| invalid("it is longer than it may be".to_owned()))?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OF_HELLO: &str =
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn read(bytes: &[u8], digest: &str, length: u64) -> Result<Vec<u8>, String> {
        let digest = digest.parse().map_err(|why: Error| why.to_string())?;
        let mut read = Vec::new();
        Verified::exactly(bytes, &digest, length)
            .read_to_end(&mut read)
            .map_err(|why| why.to_string())?;
        Ok(read)
    }

    #[test]
    fn bytes_are_those_of_their_digest() {
        assert_eq!(read(b"hello", OF_HELLO, 5), Ok(b"hello".to_vec()));
        let of_512 = format!("sha512:{}", hex(&Sha512::digest(b"hello")));
        assert_eq!(read(b"hello", &of_512, 5), Ok(b"hello".to_vec()));
        for (bytes, length, why) in [
            (&b"hellO"[..], 5, "it is not what sha256:2cf24"),
            (b"hello", 6, "it is 1 bytes too short"),
            (b"hello", 4, "it is longer than it may be"),
        ] {
            let said = read(bytes, OF_HELLO, length).expect_err("refused");
            assert!(said.starts_with(why), "{said}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_is_the_names_of_two_files(text in "(sha256|sha512|md5|\\.\\.)?:?[0-9a-fA-F/.]{0,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                let (algorithm, digits) = digest.parts();
                prop_assert!(!algorithm.contains(['/', '.']) && !digits.contains(['/', '.']));
                prop_assert!(digits.len() == 64 || digits.len() == 128);
                prop_assert_eq!(digest.as_str(), text);
            }
        }
    }

    #[test]
    fn other_algorithms_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            &OF_HELLO.to_uppercase(),
        ] {
            let why = text.parse::<Digest>().expect_err("refused").to_string();
            assert!(why.contains("is no digest"), "{why}");
        }
    }
}
