//! The pieces of Linux that several of our crates stand on, each in one place.
//!
//! They are system calls with the ownership and the errors that Rust can give them: descriptors that
//! travel over sockets ([`message`]), mounts that hang nowhere ([`detached`]), the table of mounts
//! ([`mountinfo`]), loop devices ([`loops`]), a program that containers can't write to ([`own_program`]), what has no safe wrapper elsewhere ([`pidfd`],
//! [`descriptors`], [`keyring`], [`process`]). With the feature `event-loop` come those that wait: children
//! ([`child`]), relays of bytes ([`relay`]), work on a thread of its own ([`apart()`]).
//!
//! This crate knows no pod, no container and no runtime, and decides nothing. A function that may be
//! called between fork and execve says so.
//!
//! Start reading at [`Error`]: what all of them fail with where the kernel's number is not enough.

#[cfg(feature = "event-loop")]
mod apart;
#[cfg(feature = "event-loop")]
pub mod child;
pub mod descriptors;
pub mod detached;
mod error;
pub mod footprint;
pub mod keyring;
mod lock;
pub mod loops;
pub mod message;
pub mod mountinfo;
pub mod own_program;
pub mod pidfd;
pub mod process;
#[cfg(feature = "event-loop")]
pub mod relay;
#[cfg(feature = "event-loop")]
pub mod relays;
pub mod rootless;
pub mod selinux;
#[cfg(feature = "event-loop")]
pub mod watched;

#[cfg(feature = "event-loop")]
pub use apart::apart;
pub use error::{Context, Error, Result, reason};
pub use lock::lock;
