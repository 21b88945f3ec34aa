//! Why something could not be done, in the words that come after the colon.

use std::fmt;

use nix::errno::Errno;
use trefoil_os::detached::Filesystem;

use crate::setup::error::{Failure, reason};

/// A reason, and the kernel's name for it, if it was the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) errno: Option<Errno>,
    words: String,
}

/// The outcome of a step whose caller knows what it was for.
pub(super) type Outcome<T> = Result<T, Reason>;

impl Reason {
    /// One of our own.
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self {
            errno: None,
            words: words.into(),
        }
    }

    /// The kernel's, with what the filesystem says of it.
    pub(super) fn told_by(filesystem: &Filesystem, errno: Errno) -> Self {
        match filesystem.said() {
            Some(said) => Self::from(errno).with(&said),
            None => errno.into(),
        }
    }

    /// The same, and more of it.
    pub(super) fn with(mut self, more: &str) -> Self {
        self.words = format!("{} ({more})", self.words);
        self
    }

    /// Whether the kernel doesn't let us: what there may be another way for.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.errno, Some(Errno::EPERM | Errno::EBUSY))
    }

    /// The sentence: `cannot {doing}: …`.
    pub(super) fn failing(self, doing: impl fmt::Display) -> Failure {
        Failure::new(format!("cannot {doing}: {}", self.words))
    }
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        Self {
            errno: Some(errno),
            words: reason(errno),
        }
    }
}

impl From<rustix::io::Errno> for Reason {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno::from_raw(errno.raw_os_error()).into()
    }
}
