//! The first line, which the init says.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::{ParseError, number, whole_line};

/// `ready <version> tsc=<number> resident=<bytes>`: the guest is up, and waits for requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The version of the init.
    pub version: Cow<'static, str>,
    /// The guest's time stamp counter just before this was said.
    pub tsc: u64,
    /// How many bytes of memory the init had resident at most. The kernel sums them up lazily: it
    /// may be some dozens of pages more.
    pub resident: u64,
}

impl Ready {
    /// No line is longer, its newline counted in: a host need not read on.
    pub const LONGEST: usize = 96;

    const LONGEST_VERSION: usize = 16;
}

impl fmt::Display for Ready {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            tsc,
            resident,
        } = self;
        write!(formatter, "ready {version} tsc={tsc} resident={resident}")
    }
}

impl FromStr for Ready {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let line = whole_line(line, Self::LONGEST)?;
        let rest = line.strip_prefix("ready ").ok_or(ParseError::Unknown)?;
        let (version, rest) = rest.split_once(' ').ok_or(ParseError::Version)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
        if !(1..=Self::LONGEST_VERSION).contains(&version.len()) || !version.bytes().all(plain) {
            return Err(ParseError::Version);
        }
        let rest = rest.strip_prefix("tsc=").ok_or(ParseError::Number)?;
        let (tsc, rest) = number::leading(rest)?;
        let rest = rest.strip_prefix(" resident=").ok_or(ParseError::Number)?;
        let (resident, rest) = number::leading(rest)?;
        if !rest.is_empty() {
            return Err(ParseError::Trailing);
        }
        Ok(Self {
            version: version.to_owned().into(),
            tsc,
            resident,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_reads_as_said() {
        let ready = Ready {
            version: "0.1.0".into(),
            tsc: 45_000_000,
            resident: 524_288,
        };
        assert_eq!(
            ready.to_string(),
            "ready 0.1.0 tsc=45000000 resident=524288"
        );
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (line, error) in [
            ("", ParseError::Unended),
            ("ready 0.1.0 tsc=1 resident=2", ParseError::Unended),
            ("steady 0.1.0 tsc=1 resident=2\n", ParseError::Unknown),
            ("ready\n", ParseError::Unknown),
            ("ready 0.1.0\n", ParseError::Version),
            ("ready  tsc=1 resident=2\n", ParseError::Version),
            ("ready 0.1.0\u{e9} tsc=1 resident=2\n", ParseError::Version),
            (
                "ready 0.1.0.0.0.0.0.0.0 tsc=1 resident=2\n",
                ParseError::Version,
            ),
            ("ready 0.1.0 tsc= resident=2\n", ParseError::Number),
            ("ready 0.1.0 tsc=01 resident=2\n", ParseError::Number),
            ("ready 0.1.0 resident=2 tsc=1\n", ParseError::Number),
            ("ready 0.1.0 tsc=1\n", ParseError::Number),
            ("ready 0.1.0 tsc=1 resident=2 \n", ParseError::Trailing),
            ("ready 0.1.0 tsc=1 resident=2\n\n", ParseError::Trailing),
        ] {
            assert_eq!(line.parse::<Ready>(), Err(error), "{line:?}");
        }
        let endless = "ready ".repeat(1000);
        assert_eq!(endless.parse::<Ready>(), Err(ParseError::TooLong));
    }

    #[test]
    fn the_longest_fits() {
        let longest = Ready {
            version: "v".repeat(Ready::LONGEST_VERSION).into(),
            tsc: u64::MAX,
            resident: u64::MAX,
        };
        let line = format!("{longest}\n");
        assert!(line.len() <= Ready::LONGEST);
        assert_eq!(line.parse(), Ok(longest));
    }

    fn ready() -> impl Strategy<Value = Ready> {
        ("[0-9A-Za-z.+-]{1,16}", any::<u64>(), any::<u64>()).prop_map(|(version, tsc, resident)| {
            Ready {
                version: version.into(),
                tsc,
                resident,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(ready in ready()) {
            prop_assert_eq!(format!("{ready}\n").parse::<Ready>(), Ok(ready));
        }

        /// What a guest got accepted is spelled in the one way there is.
        #[test]
        fn what_is_accepted_is_what_would_be_said(line in "(ready )?\\PC{0,8} ?tsc=[0-9]{0,22} resident=[0-9]{0,22}\n?") {
            if let Ok(ready) = line.parse::<Ready>() {
                prop_assert_eq!(format!("{ready}\n"), line);
            }
        }

        #[test]
        fn no_part_of_a_line_is_taken_for_the_whole(ready in ready(), cut in 0.0..1.0) {
            let line = format!("{ready}\n");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let end = (line.len() as f64 * cut) as usize;
            prop_assert!(line[..end].parse::<Ready>().is_err());
        }

        #[test]
        fn no_text_breaks_it(line in any::<String>()) {
            drop(line.parse::<Ready>());
        }
    }
}
