//! Why something of a jailed process could not be done: the same for the process itself and for its
//! parent, and what the process's last message says ([`Exit::Failed`](crate::Exit::Failed)).

use serde::{Deserialize, Serialize};

/// What could not be done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Which part of the process, as in "vcpu thread"; empty where it is the whole.
    #[serde(with = "crate::sentence")]
    part: String,
    /// What was being done, as in "read from the tap".
    #[serde(with = "crate::sentence")]
    doing: String,
    /// Why that failed.
    #[serde(with = "crate::sentence")]
    why: String,
}

impl Failure {
    /// Says what was being done, and why it failed.
    pub fn new(doing: impl Into<String>, why: impl ToString) -> Self {
        Self {
            part: String::new(),
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    /// For `map_err` on a system call's outcome.
    pub fn at<E: ToString>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |why| Self::new(doing, why)
    }

    /// The same, of this part of the process.
    #[must_use]
    pub fn of(self, part: impl Into<String>) -> Self {
        Self {
            part: part.into(),
            ..self
        }
    }

    /// Which part of the process it is; empty where it is the whole.
    pub fn part(&self) -> &str {
        &self.part
    }
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { part, doing, why } = self;
        match part.as_str() {
            "" => write!(f, "{doing}: {why}"),
            part => write!(f, "{part}: {doing}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_sentence() {
        let whole = Failure::new("map the metrics", nix::errno::Errno::ENOMEM);
        assert_eq!(whole.to_string(), "map the metrics: ENOMEM: Out of memory");
        let part = Failure::at("read from the tap")("it is gone").of("net device");
        assert_eq!(
            part.to_string(),
            "net device: read from the tap: it is gone"
        );
        assert_eq!(part.part(), "net device");
    }
}
