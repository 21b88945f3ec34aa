//! Why there are no secrets.

use std::time::Duration;

/// No failure's sentence is longer, in characters: it has to fit into a pod's event.
const LONGEST: usize = 400;

/// Why an exchange failed. Each is one bounded sentence, though parts of it are the broker's words.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// The broker can't be reached, or hangs up, or is busy. Later it may be there.
    #[error("the broker is away: {0}")]
    Away(String),
    /// The broker has said no. Asking again yields the same.
    #[error("the broker refused {0}")]
    Refused(String),
    /// The broker, or who poses as one, has said what the protocol does not allow.
    #[error("the broker's answer is wrong: {0}")]
    Wrong(String),
    /// There is something wrong on this side: the configuration, the evidence, the secret's name.
    #[error("{0}")]
    Here(String),
}

impl Failure {
    pub(crate) fn away(why: impl Into<String>) -> Self {
        Self::Away(shorten(&why.into()))
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(shorten(&why.into()))
    }

    pub(crate) fn wrong(why: impl Into<String>) -> Self {
        Self::Wrong(shorten(&why.into()))
    }

    pub(crate) fn here(why: impl Into<String>) -> Self {
        Self::Here(shorten(&why.into()))
    }

    pub(crate) fn late(doing: &str, limit: Duration) -> Self {
        Self::away(format!("{doing} took longer than {limit:?}"))
    }

    /// With what was being done said first.
    pub(crate) fn context(self, doing: &str) -> Self {
        let say = |why: String| shorten(&format!("{doing}: {why}"));
        match self {
            Self::Away(why) => Self::Away(say(why)),
            Self::Refused(why) => Self::Refused(why),
            Self::Wrong(why) => Self::Wrong(say(why)),
            Self::Here(why) => Self::Here(say(why)),
        }
    }
}

/// One line of it, of a length that a message may have.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
