//! The working directory must lie inside the container.
//!
//! A directory descriptor that leaks from the host is reachable as `/proc/self/fd/N`; a process
//! whose working directory is there walks the host with relative paths (CVE-2024-21626). All
//! descriptors are closed before the directory is entered, and where we arrived is checked.

use std::path::Path;

use nix::errno::Errno;

use super::error::{Doing, Failure};

/// PATH_MAX, and room for the kernel's "(unreachable)".
const LONGEST: usize = 4096 + 64;

/// The step, for its error.
pub(crate) fn entering(cwd: &Path) -> String {
    format!("chdir to cwd ({:?})", cwd.display().to_string())
}

/// Fails unless the current directory is below the current root.
pub(crate) fn verify_inside(cwd: &Path) -> Result<(), Failure> {
    let mut buffer = [0_u8; LONGEST];
    // The system call, not the C library's function: that one walks ".." when the kernel says
    // "(unreachable)", and may come back with a path that looks harmless.
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(length).doing(|| {
        format!(
            "verify the working directory {:?}",
            cwd.display().to_string()
        )
    })?;
    match buffer.first() {
        Some(b'/') => Ok(()),
        _ => Err(Failure::new(format!(
            "the working directory {:?} lies outside the container's root filesystem",
            cwd.display().to_string()
        ))),
    }
}
