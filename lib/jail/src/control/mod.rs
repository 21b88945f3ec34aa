//! The socket between a jailed process and its parent.
//!
//! First the parent sends what the process is to be, with the descriptors of it all: one message. From
//! then on, small messages: requests one way, answers in the requests' order the other way, with word of
//! the start and of the end. All are JSON in packets (`SOCK_SEQPACKET`) of bounded size, and whatever is
//! not exactly as a process's types say is refused.
//!
//! [`Control`] is the process's end; the parent's is a [`Child`](crate::Child)'s. Each trusts the other
//! with less than it could: the process never waits for a parent that doesn't read, and the parent reads
//! a process that may have been taken over by whoever it serves.

mod jailed;
mod message;
pub mod packet;

pub use jailed::{CONTROL, Control, Received};
pub(crate) use jailed::{parent_is_gone, send_last_words};
pub use message::{Failure, MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, parse};
pub use packet::pair;
