//! A virtqueue against a driver that fills memory by hand, rightly or wrongly.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod buffers;
mod chains;
mod driver;
mod rings;
