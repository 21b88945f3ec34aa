//! The ends of a process's standard streams, as the shim opened them for containerd.

use std::os::fd::OwnedFd;

/// The standard streams of a process. A stream that containerd doesn't want is `None` and is to be
/// `/dev/null` for the process.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Whether the process gets a terminal. Its output then goes to `stdout` alone.
    pub terminal: bool,
    /// Where the process's input comes from.
    pub stdin: Option<Input>,
    /// Where its output goes.
    pub stdout: Option<Output>,
    /// Where its error output goes.
    pub stderr: Option<Output>,
}

/// The stream a process reads.
#[derive(Debug)]
pub struct Input {
    /// The end to read from. It ends when the last of containerd's clients closes its own; before the
    /// first has opened one it is merely empty.
    pub read: OwnedFd,
    /// A writing end of ours, while which is open there is no end: for a terminal, whose clients come
    /// and go.
    pub hold: Option<OwnedFd>,
}

/// A stream a process writes.
#[derive(Debug)]
pub struct Output {
    /// The end to write to, in blocking mode.
    pub write: OwnedFd,
    /// A reading end of ours: while it is open a write never fails for want of a reader, so that a
    /// container outlives a restart of containerd.
    pub hold: Option<OwnedFd>,
}
