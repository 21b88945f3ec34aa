//! What the messages between worker, stage and init are about.

/// The worker's word to go on.
pub(super) const GO: u8 = b'g';
/// The word that the root is mounted, with the number of the container's process.
pub(super) const MOUNTED: u8 = b'm';
/// The word with which a terminal is handed over.
pub(super) const TERMINAL: u8 = b't';
