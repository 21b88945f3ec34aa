//! Descriptors: 0, 1 and 2 are the process's, 3 is the line until execve, no others exist.

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat, major, minor};
use nix::unistd::{Uid, fchown};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{stderr, stdin, stdout};
use trefoil_os::descriptors::{close_from, replace};

use super::error::{Doing, Failure};

/// Where the line is after [`arrange`].
pub(crate) const LINE: RawFd = 3;
/// Where, after [`keep`], the socket is over which a stage leads an init.
pub(crate) const CHANNEL: RawFd = 4;

/// Moves `stdio` to 0, 1 and 2 and `line` to 3, and closes everything else.
///
/// Closed, not marked: between here and `execve` the container's paths are walked, and
/// `/proc/self/fd` must have nothing of the host to offer. Every other descriptor number that the
/// caller still holds is invalid afterwards.
pub(crate) fn arrange(stdio: [BorrowedFd<'_>; 3], line: BorrowedFd<'_>) -> Result<(), Failure> {
    place(0, stdio.into_iter().chain([line]))
}

/// Closes every descriptor but 0, 1, 2 and these two, which move to [`LINE`] and [`CHANNEL`].
pub(crate) fn keep(line: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> Result<(), Failure> {
    place(LINE, [line, channel].into_iter())
}

/// Moves descriptors to the numbers from `first` on, and closes all above. Those beyond the standard
/// streams are closed at `execve`.
fn place<'a>(first: RawFd, given: impl Iterator<Item = BorrowedFd<'a>>) -> Result<(), Failure> {
    const DOING: &str = "arrange a new process's descriptors";
    // The log's descriptor is closed with the others, and its number may become one of these: what is
    // logged would go to the container's output.
    log::set_max_level(log::LevelFilter::Off);
    // First out of the way, so that no dup3 below overwrites one that is still needed.
    let mut clear = Vec::new();
    for fd in given {
        clear.push(fcntl_dupfd_cloexec(fd, CHANNEL + 1).doing(|| DOING)?);
    }
    let mut target = first;
    for source in clear {
        // SAFETY: nothing in this process uses these numbers through an owner that would close them: it
        // was forked for this and ends in execve or _exit.
        unsafe { replace(source.as_fd(), target, target >= LINE) }.doing(|| DOING)?;
        // Closed with all the others.
        std::mem::forget(source);
        target += 1;
    }
    // SAFETY: as above.
    unsafe { close_from(target.unsigned_abs()) };
    Ok(())
}

/// Gives the standard streams to the user, so that one that is not root can reopen `/dev/stdout`.
pub(crate) fn give_stdio_to(uid: Uid) -> Result<(), Failure> {
    // `arrange` has put them there.
    for (number, stream) in [stdin(), stdout(), stderr()].into_iter().enumerate() {
        let status = fstat(stream).doing(|| format!("inspect standard stream {number}"))?;
        if status.st_uid == uid.as_raw() || is_dev_null(&status) {
            continue;
        }
        // The group stays: a terminal's is the mount's choice.
        match fchown(stream, Some(uid), None) {
            Ok(_) => {}
            // Its owner is not of this user namespace, or its filesystem is read-only or knows no
            // owners. Streams that belong to someone else still work; only reopening them fails.
            Err(
                Errno::EPERM | Errno::EROFS | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP,
            ) => {}
            Err(errno) => {
                return Err(errno).doing(|| format!("give standard stream {number} to user {uid}"));
            }
        }
    }
    Ok(())
}

fn is_dev_null(status: &FileStat) -> bool {
    let is_device = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    is_device && (major(status.st_rdev), minor(status.st_rdev)) == (1, 3)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use log::LevelFilter;

    use super::*;
    use crate::setup::testing::in_child;

    /// The number that the log had may be the container's output by then.
    #[test]
    fn nothing_is_logged_once_the_logs_descriptor_is_gone() {
        in_child(|| {
            log::set_max_level(LevelFilter::Trace);
            let null = File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap();
            arrange([null.as_fd(); 3], null.as_fd()).unwrap();
            // Closed by now.
            std::mem::forget(null);
            assert_eq!(log::max_level(), LevelFilter::Off);
        });
    }
}
