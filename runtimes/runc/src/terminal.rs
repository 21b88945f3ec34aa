//! Terminals, from the side of their master.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use trefoil_core::TerminalSize;

/// Sets the size of the terminal behind `master`; its foreground processes get a SIGWINCH.
pub fn set_size(master: BorrowedFd<'_>, size: TerminalSize) -> nix::Result<()> {
    let size = Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).map_err(|why| Errno::from_raw(why.raw_os_error()))
}
