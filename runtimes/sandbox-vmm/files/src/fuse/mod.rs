//! FUSE, as a guest's kernel speaks it over virtio-fs: requests are read, answers written. What is
//! done for them is in [`crate::passthrough`].
//!
//! Every byte of a request is the guest's choice. It is copied once and then read, so that what it
//! changes meanwhile changes nothing; only a file's content goes straight between file and guest.

pub mod answer;
pub mod request;
pub mod wire;

use nix::errno::Errno;

/// What a request comes to, if it doesn't fail: with the number that the guest is told.
pub type Outcome<T> = Result<T, Errno>;
