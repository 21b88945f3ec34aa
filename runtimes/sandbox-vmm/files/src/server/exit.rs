//! How the server ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use trefoil_jail::End;

/// Why a server serves no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Exit {
    /// The front end or the parent hung up.
    Done,
    /// The parent killed it.
    Killed,
    /// It could not go on.
    Internal {
        /// What of it.
        #[serde(with = "trefoil_jail::sentence")]
        part: String,
        /// What it was doing.
        #[serde(with = "trefoil_jail::sentence")]
        doing: String,
        /// Why that failed.
        #[serde(with = "trefoil_jail::sentence")]
        why: String,
    },
}

impl End for Exit {
    fn code(&self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Internal { .. } => 1,
            Self::Killed => 13,
        }
    }

    fn of_code(code: i32) -> Option<Self> {
        [Self::Done, Self::Killed]
            .into_iter()
            .find(|exit| exit.code() == code)
    }

    fn killed() -> Self {
        Self::Killed
    }

    fn internal(why: String) -> Self {
        Self::Internal {
            part: "file server".into(),
            doing: "serve".into(),
            why,
        }
    }

    fn is_internal(&self) -> bool {
        matches!(self, Self::Internal { .. })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "the file server was hung up on"),
            Self::Killed => write!(f, "the file server was killed"),
            Self::Internal { part, doing, why } => write!(f, "{part}: {doing}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_says_as_much_as_it_can() {
        for exit in [Exit::Done, Exit::Killed] {
            assert_eq!(Exit::of_code(exit.code()), Some(exit));
        }
        assert_eq!(Exit::of_code(trefoil_jail::FORBIDDEN_CALL), None);
        let internal = Exit::internal("of some reason".into());
        assert!(internal.is_internal());
        assert_eq!(Exit::of_code(internal.code()), None);
    }
}
