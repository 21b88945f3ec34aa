//! `/dev/null`, for standard streams that nobody gave.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

const PATH: &str = "/dev/null";

/// Descriptors on it, in both directions.
#[derive(Debug)]
pub(crate) struct Null {
    read: OwnedFd,
    write: OwnedFd,
}

impl Null {
    /// That of the root this process is in. The container's `/dev/null` may be anything by now: where
    /// it isn't the device, this answers `None`, and has opened nothing.
    pub(crate) fn open(proc: &HostProc) -> Result<Option<Self>, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(handle) = open(PATH, flags, Mode::empty()) else {
            return Ok(None);
        };
        let status = fstat(&handle).doing(|| format!("inspect {PATH}"))?;
        let is_device = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
        if !is_device || (major(status.st_rdev), minor(status.st_rdev)) != (1, 3) {
            return Ok(None);
        }
        let open = |flags| {
            proc.open_file(&HostProc::path_of(handle.as_fd()), flags)
                .doing(|| format!("open {PATH}"))
        };
        Ok(Some(Self {
            read: open(OFlag::O_RDONLY)?,
            write: open(OFlag::O_WRONLY)?,
        }))
    }

    /// The process's three streams: those given, and this where there is none.
    pub(crate) fn fill<'a>(&'a self, given: [Option<BorrowedFd<'a>>; 3]) -> [BorrowedFd<'a>; 3] {
        let [stdin, stdout, stderr] = given;
        [
            stdin.unwrap_or(self.read.as_fd()),
            stdout.unwrap_or(self.write.as_fd()),
            stderr.unwrap_or(self.write.as_fd()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_getfl};

    #[test]
    fn missing_streams_are_null_in_the_right_direction() {
        let null = Null::open(&HostProc::open().unwrap()).unwrap().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let [stdin, stdout, stderr] = null.fill([None, None, Some(file.as_fd())]);
        let mode = |fd| fcntl_getfl(fd).unwrap() & OFlags::ACCMODE;
        assert_eq!(mode(stdin), OFlags::RDONLY);
        assert_eq!(mode(stdout), OFlags::WRONLY);
        assert_eq!(mode(stderr), OFlags::RDONLY);
    }
}
