//! How jailed processes end.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The exit code of a process that made a system call its filter forbids.
pub const FORBIDDEN_CALL: i32 = 31;

/// The exit code of a process that could not go on.
const FAILED: i32 = 1;

/// The exit code of a process whose parent had it end, or is gone.
const KILLED: i32 = 13;

/// How a process ended, as it says itself ([`Message::Ended`](crate::Message::Ended)) and as its exit code
/// says. `D` is how its work can be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Exit<D> {
    /// Its work was done, in one of the ways that a process of its kind has.
    Done(D),
    /// Its parent killed it, or is gone.
    Killed,
    /// It could not go on.
    Failed(Failure),
}

/// How the work of a kind of process can be done, and what such a process is called.
pub trait Done: Clone + fmt::Display + Serialize + DeserializeOwned {
    /// What a process of this kind is called in messages, as in "VMM".
    const PROCESS: &'static str;

    /// The process's exit code: not 1, which is a failure's, 13, which is that of a process that was killed,
    /// 31, which is [`FORBIDDEN_CALL`], nor one above 100, as Rust and shells have them.
    fn code(&self) -> i32;

    /// What an exit code says all of, or as much as can be said.
    fn of_code(code: i32) -> Option<Self>;
}

impl<D: Done> Exit<D> {
    /// The process's exit code, for a parent that has lost the control socket. A system call that
    /// the filter forbids gives [`FORBIDDEN_CALL`], which no end is.
    pub fn code(&self) -> i32 {
        match self {
            Self::Done(done) => done.code(),
            Self::Failed(_) => FAILED,
            Self::Killed => KILLED,
        }
    }

    /// The end that an exit code says all of, or as much as can be said.
    pub fn of_code(code: i32) -> Option<Self> {
        match code {
            KILLED => Some(Self::Killed),
            FAILED | FORBIDDEN_CALL => None,
            code => D::of_code(code).map(Self::Done),
        }
    }

    /// Why it could not go on, if that is how it ended.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Done(_) | Self::Killed => None,
        }
    }

    /// The end of a process that could not go on, and did not say itself why.
    pub(crate) fn unsaid(why: impl ToString) -> Self {
        Self::Failed(Failure::new("run", why))
    }
}

impl<D> From<Failure> for Exit<D> {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl<D: Done> fmt::Display for Exit<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(done) => done.fmt(f),
            Self::Killed => write!(f, "the {} was killed", D::PROCESS),
            Self::Failed(failure) => write!(f, "{}: {failure}", D::PROCESS),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// How the work of a process of the tests' is done.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    pub enum Sample {
        Well,
        Told(u8),
    }

    impl fmt::Display for Sample {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "the sample has done its work: {self:?}")
        }
    }

    impl Done for Sample {
        const PROCESS: &'static str = "sample";

        fn code(&self) -> i32 {
            match self {
                Self::Well => 0,
                Self::Told(_) => 12,
            }
        }

        fn of_code(code: i32) -> Option<Self> {
            [Self::Well, Self::Told(0)]
                .into_iter()
                .find(|done| done.code() == code)
        }
    }

    fn failed() -> Exit<Sample> {
        Failure::new("read", "it is gone").of("tap").into()
    }

    #[test]
    fn an_exit_code_says_as_much_as_it_can() {
        for exit in [
            Exit::Done(Sample::Well),
            Exit::Done(Sample::Told(0)),
            Exit::Killed,
        ] {
            assert_eq!(Exit::of_code(exit.code()), Some(exit));
        }
        assert_eq!(failed().code(), 1);
        for code in [1, FORBIDDEN_CALL, 101] {
            assert_eq!(Exit::<Sample>::of_code(code), None);
        }
    }

    #[test]
    fn an_end_names_the_process() {
        assert_eq!(failed().to_string(), "sample: tap: read: it is gone");
        assert_eq!(Exit::<Sample>::Killed.to_string(), "the sample was killed");
        assert_eq!(
            Exit::Done(Sample::Well).to_string(),
            "the sample has done its work: Well"
        );
    }

    #[test]
    fn an_end_is_said_in_words() {
        for (exit, text) in [
            (Exit::Done(Sample::Told(3)), r#"{"done":{"told":3}}"#),
            (Exit::Killed, r#""killed""#),
            (
                failed(),
                r#"{"failed":{"part":"tap","doing":"read","why":"it is gone"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&exit).expect("write"), text);
            assert_eq!(
                serde_json::from_str::<Exit<Sample>>(text).expect("read"),
                exit
            );
        }
        let more = r#"{"failed":{"part":"","doing":"","why":"","more":1}}"#;
        serde_json::from_str::<Exit<Sample>>(more).expect_err("more");
    }
}
