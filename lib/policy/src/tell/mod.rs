//! A policy in sentences, and what another one changes.

mod diff;
mod explain;
#[cfg(test)]
mod tests;

pub use diff::diff;
