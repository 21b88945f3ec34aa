//! The host's procfs, held open across the change of mount namespace.
//!
//! The container decides what is mounted on its own `/proc`. A fake one could swallow the write
//! that applies an AppArmor profile, or lie about `setgroups`. Everything here that needs procfs
//! therefore goes through one descriptor opened before the container's mounts are in sight.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::error::{Doing, Failure};

/// More than any file of procfs that is read here.
const LARGEST_FILE: u64 = 256 * 1024;

/// A descriptor on the host's `/proc`.
#[derive(Debug)]
pub(crate) struct HostProc(OwnedFd);

impl HostProc {
    /// Opens `/proc` of the mount namespace this process is in now.
    pub(crate) fn open() -> Result<Self, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open("/proc", flags, Mode::empty()).doing(|| "open the host's /proc")?;
        let kind = fstatfs(fd.as_fd()).doing(|| "inspect the host's /proc")?;
        if kind.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Failure::new("the host's /proc is not a proc filesystem"));
        }
        Ok(Self(fd))
    }

    /// Opens a file below `/proc`.
    pub(crate) fn open_file(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        openat(&self.0, path, flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Reads a file below `/proc`.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<String> {
        let file = File::from(self.open_file(path, OFlag::O_RDONLY)?);
        let mut text = String::new();
        file.take(LARGEST_FILE).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes `value` to a file below `/proc` in one go.
    pub(crate) fn write(&self, path: &str, value: &str) -> std::io::Result<()> {
        File::from(self.open_file(path, OFlag::O_WRONLY)?).write_all(value.as_bytes())
    }

    /// Whether there is such a file below `/proc`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.stat(path).is_ok()
    }

    /// What a path below `/proc` leads to.
    pub(crate) fn stat(&self, path: &str) -> Result<FileStat, Errno> {
        fstatat(&self.0, path, nix::fcntl::AtFlags::empty())
    }

    /// The path, below `/proc`, that leads to what `fd` is open on.
    pub(crate) fn path_of(fd: BorrowedFd<'_>) -> String {
        format!("self/fd/{}", fd.as_raw_fd())
    }
}
