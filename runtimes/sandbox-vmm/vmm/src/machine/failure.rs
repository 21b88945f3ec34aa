//! Why a machine can't be made, or go on.

use std::fmt::Display;

use crate::client::exit::Exit;

/// What was being done, and why not.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Failure {
    doing: String,
    why: String,
}

impl Failure {
    pub(super) fn new(doing: impl Into<String>, why: impl Display) -> Self {
        Self {
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    /// For `map_err`.
    pub(super) fn at<E: Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |why| Self::new(doing, why)
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Self {
        Self::Internal {
            part: "machine".into(),
            doing: failure.doing,
            why: failure.why,
        }
    }
}
