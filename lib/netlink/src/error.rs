//! What can go wrong beside the calls themselves: what the kernel answers to a request, and networks that
//! can't be had.

use std::fmt;

use nix::errno::Errno;
use trefoil_os::{Error, Result};

/// That the namespace holds what can't be made again elsewhere, or that its description is not one.
pub fn unfit(why: impl fmt::Display) -> Error {
    Error::invalid("use the network", why.to_string())
}

/// The kernel's answer to a request, with its own words where it has some.
#[derive(Debug)]
pub struct Refusal {
    /// The number of the error.
    pub errno: Errno,
    /// What the kernel says besides.
    pub words: Option<String>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, words: None }
    }
}

/// Says of a refusal what was being done.
pub trait Doing<T> {
    /// Makes an error of it.
    ///
    /// # Errors
    /// If it was one.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, Refusal> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|why| Error::new(what(), why.errno).noting(why.words))
    }
}
