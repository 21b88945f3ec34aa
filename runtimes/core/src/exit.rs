use std::os::unix::process::ExitStatusExt;
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

impl From<std::process::ExitStatus> for ExitStatus {
    /// As the shell has it, noticed now.
    fn from(status: std::process::ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::now(code.unsigned_abs()),
            (None, signal) => Self::killed_by(signal.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_are_told_apart() {
        let code = |raw| ExitStatus::from(std::process::ExitStatus::from_raw(raw)).code;
        assert_eq!(code(3 << 8), 3);
        assert_eq!(code(255 << 8), 255);
        assert_eq!(code(15), 143);
        // With a core dump.
        assert_eq!(code(6 | 0x80), 134);
    }
}
