//! What of a document may stand in a message.

/// No more characters of a value are repeated.
const SHOWN: usize = 64;

/// As much of a text as a message may hold, on one line.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// What a TOML parser says, without the lines of the document that it shows.
pub(crate) fn of_toml(why: &toml::de::Error, document: &str) -> String {
    let before = why
        .span()
        .and_then(|span| document.get(..span.start))
        .unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    // It lists what would be right, which may be some lines, and what was found, which may be long.
    let mut what: String = why
        .message()
        .chars()
        .take(4 * SHOWN)
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect();
    if what.is_empty() {
        what.push_str("not TOML");
    }
    format!("line {line}: {what}")
}
