//! What a plain scalar is, by YAML 1.1 as Kubernetes' reader has it.

use super::{Fault, Value};

/// Types a scalar that is not quoted.
///
/// # Errors
/// A whole number that does not fit into 64 bits with a sign: what would become of it depends on the reader.
pub(super) fn plain(text: &str, line: usize) -> Result<Value, Fault> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        _ => return number(text, line),
    };
    Ok(value)
}

fn number(text: &str, line: usize) -> Result<Value, Fault> {
    let Some(first) = text.bytes().find(|byte| !matches!(byte, b'+' | b'-')) else {
        return Ok(Value::Text(text.to_owned()));
    };
    if !first.is_ascii_digit() && first != b'.' {
        return Ok(Value::Text(text.to_owned()));
    }
    match whole(text) {
        Some(Ok(number)) => return Ok(Value::Int(number)),
        Some(Err(())) => {
            let why = format!("{text} is larger than a number can be: quote it if it is text");
            return Err(Fault::at(line, why));
        }
        None => {}
    }
    Ok(match is_float(text).then(|| text.parse()) {
        Some(Ok(number)) => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    })
}

/// A whole number: `None` if it is none, an error if it is too large.
fn whole(text: &str) -> Option<Result<i64, ()>> {
    let digits = text.replace('_', "");
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).map(|n| if negative { -n } else { n });
    Some(
        number
            .map_err(drop)
            .and_then(|n| i64::try_from(n).map_err(drop)),
    )
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned =
        |text: &str| -> bool { !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) };
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent_is_one = exponent
        .is_none_or(|exponent| unsigned(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    let mantissa_is_one = match mantissa.split_once('.') {
        Some(("", fraction)) => unsigned(fraction),
        Some((whole, fraction)) => unsigned(whole) && (fraction.is_empty() || unsigned(fraction)),
        None => unsigned(mantissa),
    };
    exponent_is_one && mantissa_is_one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Value {
        plain(text, 1).expect(text)
    }

    #[test]
    fn numbers_are_those_of_yaml_1_1() {
        for (text, number) in [
            ("0", 0),
            ("00", 0),
            ("0644", 420),
            ("0o644", 420),
            ("0x1F", 31),
            ("0b101", 5),
            ("-12", -12),
            ("+7", 7),
            ("1_000", 1000),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(typed(text), Value::Int(number), "{text}");
        }
        for (text, number) in [
            ("0.5", 0.5),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("2.", 2.0),
            ("089.5", 89.5),
        ] {
            assert_eq!(typed(text), Value::Float(number), "{text}");
        }
    }

    #[test]
    fn text_that_looks_like_a_number_stays_text() {
        for text in [
            "089a",
            "1.2.3",
            "0x",
            "0b2",
            "1Gi",
            "500m",
            "2001-12-14",
            "127.0.0.1",
            "-",
            "+",
            ".",
            "1e",
            "e1",
            "__",
            "1:30",
            "--1",
        ] {
            assert_eq!(typed(text), Value::Text(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn words_of_truth_are_booleans() {
        for text in ["yes", "on", "True", "y"] {
            assert_eq!(typed(text), Value::Bool(true), "{text}");
        }
        for text in ["no", "off", "FALSE", "N"] {
            assert_eq!(typed(text), Value::Bool(false), "{text}");
        }
        assert_eq!(typed("yES"), Value::Text("yES".to_owned()));
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        for text in [
            "9223372036854775808",
            "0xffffffffffffffffffffffffffffffffffffffffff",
        ] {
            let why = plain(text, 3).expect_err(text).to_string();
            assert!(why.contains("quote it"), "{why}");
        }
    }
}
