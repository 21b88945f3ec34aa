//! Values of manifests that are no plain type.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};

/// A field that has no effect on what runs in the pod: scheduling, and what the node does for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// An amount of a resource, exactly: thousandths of a core, of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    thousandths: u128,
}

impl Quantity {
    /// The amount in thousandths, rounded up.
    #[must_use]
    pub fn milli(self) -> u64 {
        u64::try_from(self.thousandths).unwrap_or(u64::MAX)
    }

    /// The amount in whole units, rounded up as Kubernetes does.
    #[must_use]
    pub fn units(self) -> u64 {
        self.divided_by(1000)
    }

    /// The amount in multiples of a divisor, rounded up; of nothing none.
    #[must_use]
    pub fn in_units_of(self, divisor: Self) -> Option<u64> {
        (divisor.thousandths != 0).then(|| self.divided_by(divisor.thousandths))
    }

    fn divided_by(self, thousandths: u128) -> u64 {
        u64::try_from(self.thousandths.div_ceil(thousandths)).unwrap_or(u64::MAX)
    }

    /// Reads Kubernetes' notation: `500m`, `1.5`, `64Mi`, `1e3`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let number = number.strip_prefix('+').unwrap_or(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        let is_sound =
            !digits.is_empty() && digits.len() <= 21 && digits.bytes().all(|b| b.is_ascii_digit());
        let digits: u128 = is_sound.then(|| digits.parse().ok())??;
        let (times, over) = scale(suffix)?;
        let over = over.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
        let thousandths = digits.checked_mul(times)?.div_ceil(over);
        // Kubernetes takes no more than a whole number of 64 bits.
        (thousandths <= 1000 * u128::from(i64::MAX.unsigned_abs())).then_some(Self { thousandths })
    }
}

/// What a suffix multiplies by, and divides by, to come to thousandths.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && !exponent.is_empty()
    {
        let exponent: i32 = exponent.parse().ok()?;
        let power = 10u128.checked_pow(exponent.unsigned_abs().min(30))?;
        return Some(if exponent < 0 {
            (1000, power)
        } else {
            (power.checked_mul(1000)?, 1)
        });
    }
    Some(match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount such as 500m or 64Mi")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        Quantity::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, milli) in [
            ("500m", 500),
            ("1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("0.0001", 1),
            ("100u", 1),
            ("1Ki", 1_024_000),
            ("64Mi", 67_108_864_000),
            ("1e3", 1_000_000),
            (
                "1E",
                1_000_000_000_000_000_000_000_u128.min(u128::from(u64::MAX)) as u64,
            ),
            ("12e-1", 1200),
            ("+2", 2000),
        ] {
            assert_eq!(
                Quantity::parse(text).map(Quantity::milli),
                Some(milli),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            "m",
            "-1",
            "1 Gi",
            "1gi",
            "1e",
            "0x1",
            "1e99",
            "9999999999999999999999Ei",
            "1.2.3",
            "1e-",
            "∞",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_amount_is_rounded_up() {
        let one = Quantity::parse("1").expect("one");
        assert_eq!(Quantity::parse("1001m").map(Quantity::units), Some(2));
        assert_eq!(
            Quantity::parse("250m").and_then(|q| q.in_units_of(one)),
            Some(1)
        );
        assert_eq!(one.in_units_of(Quantity::default()), None);
    }
}
