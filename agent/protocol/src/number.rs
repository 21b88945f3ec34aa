//! Numbers with one spelling each.

use crate::ParseError;

/// A decimal number, no sign and no leading zeros, and what follows its digits.
pub(crate) fn leading(text: &str) -> Result<(u64, &str), ParseError> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(ParseError::Number);
    }
    let number = digits.parse().map_err(|_| ParseError::Number)?;
    Ok((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(leading("0 x"), Ok((0, " x")));
        assert_eq!(leading("18446744073709551615"), Ok((u64::MAX, "")));
        for bad in [
            "",
            "x",
            "-1",
            "+1",
            " 1",
            "01",
            "00",
            "18446744073709551616",
        ] {
            assert_eq!(leading(bad), Err(ParseError::Number), "{bad:?}");
        }
    }
}
