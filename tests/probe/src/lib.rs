//! What the probe and the host that asks it have in common: where they meet, and the bytes that
//! either writes and the other knows.

pub mod files;
pub mod pattern;

/// The host's number on every guest's vsock.
pub const HOST: u32 = 2;

/// The host's port that the probe connects to when it is ready.
pub const PORT: u32 = 1024;

/// The first line that it says there.
pub const READY: &str = "ready";

/// The longest request, its newline included.
pub const LONGEST: usize = 4096;
