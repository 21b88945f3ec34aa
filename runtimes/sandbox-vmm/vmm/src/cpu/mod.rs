//! The virtual CPUs: what they are ([`cpuid`]), how they begin ([`registers`]), and the threads that
//! run them ([`threads`]).

pub mod cpuid;
pub mod registers;
pub mod threads;

/// Why a virtual CPU can't be made.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Failure {
    doing: &'static str,
    why: String,
}

impl Failure {
    pub(crate) fn new(doing: &'static str, why: impl ToString) -> Self {
        Self {
            doing,
            why: why.to_string(),
        }
    }
}
