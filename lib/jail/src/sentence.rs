//! Text in messages: a sentence is never longer than `MOST` characters, whoever wrote it. For
//! `#[serde(with = "trefoil_jail::sentence")]`.

use serde::{Deserialize, Deserializer, Serializer};

/// The most characters of a sentence.
const MOST: usize = 500;

fn shortened(text: &str) -> &str {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// As much of it as there may be.
pub fn cut(text: &str) -> String {
    shortened(text).to_owned()
}

/// Writes as much of it as there may be.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(shortened(text))
}

/// Reads it.
///
/// # Errors
/// The deserializer's, or if it is too long.
pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match shortened(&text).len() == text.len() {
        true => Ok(text),
        false => Err(serde::de::Error::custom("a sentence is too long")),
    }
}
