//! What the agent in a guest and its host say to each other, and on which port.
//!
//! The guest's init connects to the host's [`READY_PORT`] over vsock and says [`Ready`]. From then on the
//! host asks, one [`Request`] at a time, and the init answers; the end of the connection asks for
//! what [`Request::PowerOff`] does. All of it is lines of ASCII, but for the kernel's log, which
//! follows its announcement ([`Log`]) as it is.
//!
//! Each side takes the other for hostile: nothing that is received makes this crate panic, loop or
//! allocate more than a line's bound. It never touches a descriptor: both sides bring their own.
//!
//! A host that wants containers asks to be served ([`Request`] has it). Then the init starts the agent's
//! own program and hands the connection on, which from then on speaks ttrpc: `proto/agent.proto`, behind
//! the feature `service`.
//!
//! Start reading at [`Ready`]. Every message is shown without the newline that ends its line and
//! parsed with it: a line that lacks it may have been cut short, and a number cut short is another
//! number.

pub mod command_line;
mod number;
mod ready;
mod request;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "service")]
pub mod status;

use std::fmt;

pub use ready::Ready;
pub use request::{Log, Request};

/// The host's context on a vsock, whatever the guest's.
pub const HOST: u32 = 2;

/// The guest's port for the streams of processes. The host connects and writes a stream's number, four
/// bytes, little endian; what follows is the stream.
pub const STREAM_PORT: u32 = 1025;

/// The guest's port by which its TCP ports are reached. The host connects and writes a port, two
/// bytes, little endian; the agent answers one byte, 0 for connected, 1 where nobody listens and 2 where the
/// pod's policy denies it; what follows is the connection.
pub const FORWARD_PORT: u32 = 1026;

/// The tag of the virtio-fs device by which the host shares files.
pub const SHARE_TAG: &str = "trefoil";

/// The name among what the host shares that the agent's program has, where the guest's image does not
/// hold it.
pub const AGENT_SHARE: &str = "agent";

/// How the source of a bind mount begins that is something the host shares.
pub const SHARE_SOURCE: &str = "share:";

/// The same of a small volume that the host changes as a whole (a ConfigMap, a Secret): the guest is to
/// have a copy, of whose changes watchers hear.
pub const COPY_SOURCE: &str = "copy:";

/// The same of a volume that the service's `PutFiles` has made in a confidential guest.
pub const FILES_SOURCE: &str = "files:";

/// The same of a directory on a confidential guest's scratch disk.
pub const SCRATCH_SOURCE: &str = "scratch:";

/// The same of a filesystem in a confidential guest's memory.
pub const MEMORY_SOURCE: &str = "memory:";

/// The same of a file that is empty at first, another one for each container, on that disk.
pub const EMPTY_FILE_SOURCE: &str = "empty-file:";

/// The longest initdata, in bytes.
pub const LONGEST_INITDATA: usize = 1 << 20;

/// The port that the host listens on for an agent that has become ready.
pub const READY_PORT: u32 = 1024;

/// The port of the host's whose connections it carries to the broker of a confidential pod's secrets.
pub const BROKER_PORT: u32 = 1027;

/// Why a line is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// it is longer than any message
    TooLong,
    /// it doesn't end with a newline
    Unended,
    /// it doesn't begin as the message does
    Unknown,
    /// the version is not one to sixteen of `0-9 a-z A-Z . + -`
    Version,
    /// a number is missing, not plain decimal, or too large
    Number,
    /// something follows the message
    Trailing,
}

impl fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLong => "it is longer than any message",
            Self::Unended => "it doesn't end with a newline",
            Self::Unknown => "it doesn't begin as the message does",
            Self::Version => "the version is not one to sixteen of 0-9 a-z A-Z . + -",
            Self::Number => "a number is missing, not plain decimal, or too large",
            Self::Trailing => "something follows the message",
        })
    }
}

impl std::error::Error for ParseError {}

/// A line's text, if it is a whole line of no more than `longest` bytes.
fn whole_line(line: &str, longest: usize) -> Result<&str, ParseError> {
    if line.len() > longest {
        return Err(ParseError::TooLong);
    }
    line.strip_suffix('\n').ok_or(ParseError::Unended)
}
