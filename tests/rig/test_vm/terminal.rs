//! Our own terminal, lent to QEMU and given back as it was.

use std::io;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// How standard input's terminal was set; dropped, it is so again, however QEMU has ended.
pub struct Saved(Termios);

impl Saved {
    /// Remembers it; an error if standard input is no terminal.
    pub fn of_standard_input() -> Result<Self> {
        let settings =
            tcgetattr(io::stdin()).context("a shell in the test VM needs a terminal to be on")?;
        Ok(Self(settings))
    }

    /// Its rows and columns.
    pub fn size(&self) -> (u16, u16) {
        nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);
        let mut size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open as long as we are, and the kernel writes a winsize.
        // If it doesn't, the usual size stands.
        let _ = unsafe { window_size(libc::STDIN_FILENO, &mut size) };
        match (size.ws_row, size.ws_col) {
            (0, _) | (_, 0) => (24, 80),
            known => known,
        }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
