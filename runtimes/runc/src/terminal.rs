//! Terminals, from the side of their master.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use trefoil_core::TerminalSize;

/// Sets the size of the terminal behind `master`; its foreground processes get a SIGWINCH.
pub fn set_size(master: BorrowedFd<'_>, size: TerminalSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and the request reads a winsize, which lives until after.
    let outcome = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(outcome).map(drop)
}
