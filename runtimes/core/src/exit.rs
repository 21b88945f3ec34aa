use std::time::SystemTime;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub code: u32,
    /// When the end was noticed.
    pub at: SystemTime,
}

impl ExitStatus {
    /// The status of a process killed by `signal`, now.
    pub fn killed_by(signal: i32) -> Self {
        Self::now(128_u32.saturating_add_signed(signal))
    }

    /// A process that ended with `code`, now.
    pub fn now(code: u32) -> Self {
        Self {
            code,
            at: SystemTime::now(),
        }
    }
}
