//! A terminal from the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use oci_spec::runtime::Process;
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::stdin;
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

/// Of the container's root, not a link that it could point elsewhere.
const PTMX: &str = "/dev/pts/ptmx";
/// The multiplexer's inode and device numbers on every devpts.
const PTMX_INODE: u64 = 2;
const PTMX_DEVICE: (u64, u64) = (5, 2);

/// A pseudo-terminal pair.
#[derive(Debug)]
pub(crate) struct Console {
    /// The runtime's end.
    pub(crate) master: OwnedFd,
    /// The process's end.
    pub(crate) peer: OwnedFd,
}

impl Console {
    /// Allocates a pair in the mount namespace this process is in now.
    pub(crate) fn allocate(proc: &HostProc, size: Option<WindowSize>) -> Result<Self, Failure> {
        // O_PATH: nothing happens to whatever is there before we know what it is.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = open(PTMX, flags, Mode::empty())
            .doing(|| format!("allocate a terminal: open {PTMX}"))?;
        verify_multiplexer(&handle)?;
        let master = proc
            .open_file(
                &HostProc::path_of(handle.as_fd()),
                OFlag::O_RDWR | OFlag::O_NOCTTY,
            )
            .doing(|| "allocate a terminal in the container's /dev/pts")?;

        unlockpt(&master).doing(|| "unlock the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        // By descriptor, not by the name of the peer: names are the container's to replace.
        let peer = ioctl_tiocgptpeer(&master, flags).doing(|| "open the terminal's other end")?;

        if let Some(size) = size {
            size.apply(&master)?;
        }
        Ok(Self { master, peer })
    }
}

/// Makes the terminal that this process's standard input is the controlling one of its session.
pub(crate) fn take_control() -> Result<(), Failure> {
    ioctl_tiocsctty(stdin()).doing(|| "take the terminal as the controlling one")
}

/// A fake multiplexer would hand the runtime a descriptor of the container's choice.
fn verify_multiplexer(handle: &OwnedFd) -> Result<(), Failure> {
    let filesystem = fstatfs(handle).doing(|| format!("inspect {PTMX}"))?;
    let status = fstat(handle).doing(|| format!("inspect {PTMX}"))?;
    let is_device = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    let device = (major(status.st_rdev), minor(status.st_rdev));
    let genuine = filesystem.filesystem_type() == DEVPTS_SUPER_MAGIC
        && status.st_ino == PTMX_INODE
        && is_device
        && device == PTMX_DEVICE;
    if genuine {
        return Ok(());
    }
    Err(Failure::new(format!(
        "cannot allocate a terminal: the container's {PTMX} is not a terminal multiplexer"
    )))
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowSize {
    rows: u16,
    columns: u16,
}

impl WindowSize {
    /// The size that `process` asks for, if it asks for one.
    pub(crate) fn of(process: &Process) -> Option<Self> {
        let size = process.console_size()?;
        let clamp = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        let (rows, columns) = (clamp(size.height()), clamp(size.width()));
        (rows != 0 && columns != 0).then_some(Self { rows, columns })
    }

    fn apply(self, master: &OwnedFd) -> Result<(), Failure> {
        let size = Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(master, size).doing(|| "set the terminal's size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{BoxBuilder, ProcessBuilder};

    #[test]
    fn a_size_needs_both_dimensions() {
        let sized = |height: u64, width: u64| {
            let size = BoxBuilder::default()
                .height(height)
                .width(width)
                .build()
                .unwrap();
            WindowSize::of(
                &ProcessBuilder::default()
                    .console_size(size)
                    .build()
                    .unwrap(),
            )
        };
        assert_eq!(
            sized(24, 80),
            Some(WindowSize {
                rows: 24,
                columns: 80
            })
        );
        assert_eq!(sized(0, 80), None);
        assert_eq!(sized(24, 0), None);
        assert_eq!(
            sized(1 << 40, 1),
            Some(WindowSize {
                rows: u16::MAX,
                columns: 1
            })
        );
        assert_eq!(
            WindowSize::of(&ProcessBuilder::default().build().unwrap()),
            None
        );
    }
}
