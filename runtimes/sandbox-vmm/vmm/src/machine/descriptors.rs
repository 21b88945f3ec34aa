//! What the parent has handed over.

use std::os::fd::OwnedFd;

use trefoil_jail::Failure;

use crate::client::configuration::Handed;

/// The descriptors that came along, each to be taken once.
pub(super) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    pub fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    /// Takes one, which is `what`'s.
    pub fn take(&mut self, handed: Handed, what: &str) -> Result<OwnedFd, Failure> {
        self.0
            .get_mut(usize::from(handed.0))
            .and_then(Option::take)
            .ok_or_else(|| {
                Failure::new(
                    format!("take the descriptor of {what}"),
                    format!("no descriptor {} came along, or it is taken", handed.0),
                )
            })
    }
}
