//! Reading and writing the small files of a cgroup.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::error::{Doing, Result, is_absence, is_absent, not_written};

/// No file of a cgroup is longer; `io.stat` of a machine with a thousand disks is not.
const MAX_FILE: u64 = 1 << 20;

/// A directory of a cgroup that several files are read from.
pub(super) struct Dir<'a> {
    fd: OwnedFd,
    path: &'a Path,
}

impl<'a> Dir<'a> {
    /// Opens it; `None` if it does not exist.
    pub fn open(path: &'a Path) -> Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(path, flags, Mode::empty()).map_err(io::Error::from) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).doing("open", path),
        }
    }

    /// Reads a file into `buffer`, whose memory is reused, and gives its text. `None` if the file
    /// does not exist or has nothing to tell on this kernel.
    pub fn read<'b>(&self, name: &str, buffer: &'b mut Vec<u8>) -> Result<Option<&'b str>> {
        buffer.clear();
        let read = openat(
            &self.fd,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).take(MAX_FILE).read_to_end(buffer));
        match read {
            Ok(_) => Ok(std::str::from_utf8(buffer).ok()),
            // A file may be there and refuse: pressure files without PSI, memsw files without swap
            // accounting.
            Err(error) if is_absent(&error) || refuses(&error) => Ok(None),
            Err(error) => Err(error).doing("read", &self.path.join(name)),
        }
    }
}

fn refuses(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// Reads a whole file; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// Writes a value in one `write`, as the kernel wants it, to a file that exists.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| not_written(value, path, source))
}

/// Like [`write()`]; tells by `false` that the file does not exist.
pub(super) fn write_if_present(path: &Path, value: &str) -> Result<bool> {
    match write(path, value) {
        Ok(()) => Ok(true),
        Err(why) if is_absence(why.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}
