//! What the host asks, and the one answer that isn't nothing.

use std::fmt;
use std::str::FromStr;

use crate::{ParseError, number, whole_line};

/// What a host may ask of a guest that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `log`: the kernel's log so far. The answer is a [`Log`] and what it announces.
    Log,
    /// `serve`: from now on the connection speaks ttrpc; there is no answer, and what follows is the agent's.
    Serve,
    /// `power-off`: the end of the guest. The answer is the end of the connection.
    PowerOff,
}

impl Request {
    /// No line is longer, its newline counted in: an init need not read on.
    pub const LONGEST: usize = 32;
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Log => "log",
            Self::Serve => "serve",
            Self::PowerOff => "power-off",
        })
    }
}

impl FromStr for Request {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        match whole_line(line, Self::LONGEST)? {
            "log" => Ok(Self::Log),
            "serve" => Ok(Self::Serve),
            "power-off" => Ok(Self::PowerOff),
            _ => Err(ParseError::Unknown),
        }
    }
}

/// `log <bytes>`: as many bytes of the kernel's log follow, in lines of `[seconds.micros] text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How many bytes follow this line; a host that parsed it knows they are at most
    /// [`Log::LONGEST`].
    pub length: usize,
}

impl Log {
    /// No log is longer; an init with more sends the newest of it.
    pub const LONGEST: usize = 16 << 20;

    /// No announcement is longer, its newline counted in.
    pub const LONGEST_LINE: usize = 32;
}

impl fmt::Display for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "log {}", self.length)
    }
}

impl FromStr for Log {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let line = whole_line(line, Self::LONGEST_LINE)?;
        let rest = line.strip_prefix("log ").ok_or(ParseError::Unknown)?;
        let (length, rest) = number::leading(rest)?;
        if !rest.is_empty() {
            return Err(ParseError::Trailing);
        }
        match usize::try_from(length) {
            Ok(length) if length <= Self::LONGEST => Ok(Self { length }),
            _ => Err(ParseError::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_request_is_understood() {
        for request in [Request::Log, Request::Serve, Request::PowerOff] {
            let line = format!("{request}\n");
            assert!(line.len() <= Request::LONGEST);
            assert_eq!(line.parse(), Ok(request));
        }
    }

    #[test]
    fn nothing_else_is_a_request() {
        for (line, error) in [
            ("", ParseError::Unended),
            ("log", ParseError::Unended),
            ("power-off", ParseError::Unended),
            ("\n", ParseError::Unknown),
            ("LOG\n", ParseError::Unknown),
            ("log \n", ParseError::Unknown),
            ("log\npower-off\n", ParseError::Unknown),
            ("reboot\n", ParseError::Unknown),
            ("log                              \n", ParseError::TooLong),
        ] {
            assert_eq!(line.parse::<Request>(), Err(error), "{line:?}");
        }
    }

    #[test]
    fn no_log_is_announced_that_is_too_long_to_take() {
        assert_eq!("log 16777216\n".parse(), Ok(Log { length: 16 << 20 }));
        for (line, error) in [
            ("log 16777217\n", ParseError::Number),
            ("log 99999999999999999999\n", ParseError::Number),
            ("log 9999999999999999999999999999\n", ParseError::TooLong),
            ("log 12", ParseError::Unended),
            ("log -1\n", ParseError::Number),
            ("log\n", ParseError::Unknown),
            ("log 1 2\n", ParseError::Trailing),
        ] {
            assert_eq!(line.parse::<Log>(), Err(error), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn an_announcement_is_understood(length in 0..=Log::LONGEST) {
            let log = Log { length };
            let line = format!("{log}\n");
            prop_assert!(line.len() <= Log::LONGEST_LINE);
            prop_assert_eq!(line.parse::<Log>(), Ok(log));
        }

        #[test]
        fn no_text_breaks_them(line in "(log|serve|power-off)?\\PC{0,40}\n?") {
            if let Ok(request) = line.parse::<Request>() {
                prop_assert_eq!(format!("{request}\n"), line.clone());
            }
            if let Ok(log) = line.parse::<Log>() {
                prop_assert_eq!(format!("{log}\n"), line);
            }
        }
    }
}
