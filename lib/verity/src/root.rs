//! Root hashes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::DIGEST;

/// The digest that a tree ends in. In text it is 64 hexadecimal digits, small letters among them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootHash([u8; DIGEST]);

/// A text that is no root hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root hash has 64 hexadecimal digits, in small letters")]
pub struct RootHashError;

impl RootHash {
    /// The hash of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; DIGEST]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; DIGEST] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RootHash {
    type Err = RootHashError;

    fn from_str(text: &str) -> Result<Self, RootHashError> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(RootHashError),
        };
        if text.len() != 2 * DIGEST {
            return Err(RootHashError);
        }
        let mut bytes = [0; DIGEST];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(digits[0])? << 4) | digit(digits[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for RootHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn its_text_is_read_again(bytes: [u8; DIGEST]) {
            let root = RootHash::new(bytes);
            prop_assert_eq!(root.to_string().parse(), Ok(root));
            let json = serde_json::to_vec(&root).expect("json");
            prop_assert_eq!(serde_json::from_slice::<RootHash>(&json).expect("a root hash"), root);
        }

        #[test]
        fn other_texts_are_refused(text in "\\PC{0,70}") {
            if let Ok(root) = text.parse::<RootHash>() {
                prop_assert_eq!(root.to_string(), text);
            }
        }
    }

    #[test]
    fn a_root_hash_has_one_spelling() {
        let text = "0a".repeat(DIGEST);
        assert!(text.parse::<RootHash>().is_ok());
        for other in [text.to_uppercase(), format!("{text}00"), "é".repeat(DIGEST)] {
            assert_eq!(other.parse::<RootHash>(), Err(RootHashError), "{other}");
        }
    }
}
