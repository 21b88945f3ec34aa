//! How jailed processes end.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The exit code of a process that made a system call its filter forbids.
pub const FORBIDDEN_CALL: i32 = 31;

/// How a kind of process ends, as it says itself ([`Message::Ended`](crate::Message::Ended)) and as its exit code says.
///
/// One of its variants is `Internal { part, doing, why }`, three sentences, and is called `internal` in
/// messages: a system call that is forbidden is told of so by the filter's trap.
pub trait End: Clone + Serialize + DeserializeOwned {
    /// The process's exit code, for a parent that has lost the control socket. A system call that
    /// the filter forbids gives [`FORBIDDEN_CALL`], which no end is.
    fn code(&self) -> i32;
    /// The end that an exit code says all of, or as much as can be said.
    fn of_code(code: i32) -> Option<Self>;
    /// The end of a process that its parent killed.
    fn killed() -> Self;
    /// The end of a process that could not go on, and did not say itself why.
    fn internal(why: String) -> Self;
    /// Whether it is that of a process that could not go on.
    fn is_internal(&self) -> bool;
}

#[cfg(test)]
pub(crate) mod tests {
    use serde::Deserialize;

    use super::*;

    /// How a process of the tests' ends.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    pub enum Sample {
        Done,
        Killed,
        Told(u8),
        Internal {
            #[serde(with = "crate::sentence")]
            part: String,
            #[serde(with = "crate::sentence")]
            doing: String,
            #[serde(with = "crate::sentence")]
            why: String,
        },
    }

    impl End for Sample {
        fn code(&self) -> i32 {
            match self {
                Self::Done => 0,
                Self::Internal { .. } => 1,
                Self::Told(_) => 12,
                Self::Killed => 13,
            }
        }

        fn of_code(code: i32) -> Option<Self> {
            [Self::Done, Self::Killed, Self::Told(0)]
                .into_iter()
                .find(|end| end.code() == code)
        }

        fn killed() -> Self {
            Self::Killed
        }

        fn internal(why: String) -> Self {
            Self::Internal {
                part: "process".into(),
                doing: "run".into(),
                why,
            }
        }

        fn is_internal(&self) -> bool {
            matches!(self, Self::Internal { .. })
        }
    }
}
