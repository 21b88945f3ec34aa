//! What can go wrong, in one sentence that says what was being done, to what, and why not.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// Result of joining a guest to a network.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a guest could not be joined to its pod's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said no.
    #[error("cannot {doing}: {why}")]
    Kernel {
        /// What was being done, and to what.
        doing: String,
        /// Why not.
        why: Refusal,
    },
    /// The namespace holds what a guest can't have, or its description is not one.
    #[error("cannot use the pod's network: {0}")]
    Unfit(String),
}

impl Error {
    pub(crate) fn unfit(why: impl fmt::Display) -> Self {
        Self::Unfit(why.to_string())
    }
}

/// The kernel's answer, with its own words where it has some.
#[derive(Debug)]
pub struct Refusal {
    /// The number of the error.
    pub errno: Errno,
    /// What the kernel says besides; often nothing.
    pub words: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.errno.desc())?;
        if !self.words.is_empty() {
            write!(f, " (the kernel says: {})", self.words)?;
        }
        Ok(())
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            words: String::new(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        error
            .raw_os_error()
            .map_or(Errno::EIO, Errno::from_raw)
            .into()
    }
}

/// Says of a failure what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Refusal>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|why| Error::Kernel {
            doing: what(),
            why: why.into(),
        })
    }
}
