//! A program on a terminal that we hold the other end of.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::pty::{OpenptyResult, Winsize, openpty};

use crate::command;

/// A running program and its terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Option<Child>,
    seen: Arc<Mutex<Vec<u8>>>,
    /// How much of what was seen has been waited for already.
    read: usize,
}

impl Terminal {
    /// Starts a program on a new terminal of the given size.
    pub fn open(command: &mut Command, rows: u16, columns: u16) -> Result<Self> {
        let OpenptyResult { master, slave } = openpty(Some(&size(rows, columns)), None)?;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        let lead = || {
            nix::unistd::setsid()?;
            // SAFETY: descriptor 0 is the terminal, and the call takes no pointer.
            if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: between fork and exec this makes two system calls and nothing else.
        unsafe { command.pre_exec(lead) };
        let child = command
            .spawn()
            .with_context(|| format!("starting `{}`", command::describe(command)))?;
        // The command still holds the other end: it would keep the terminal from ever closing.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (File::from(OwnedFd::try_clone(&master)?), seen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Self {
            master: File::from(master),
            child: Some(child),
            seen,
            read: 0,
        })
    }

    /// Types something.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Waits for a text after what was last waited for; answers what came before it.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let mut before = String::new();
        let found = command::until("reading", Duration::from_secs(15), || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = &seen[self.read..];
            let at = fresh
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = at {
                before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                self.read += at + text.len();
            }
            Ok(at.is_some())
        });
        if found.is_err() {
            bail!(
                "the terminal never showed {text:?}; it showed {:?}",
                self.rest()
            );
        }
        Ok(before)
    }

    /// What was shown after what was last waited for.
    pub fn rest(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen[self.read..]).into_owned()
    }

    /// Makes the terminal another size, as dragging a window's corner does.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = size(rows, columns);
        // SAFETY: the descriptor is a terminal's, and the pointer is to a size that lives on.
        if unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) } == -1 {
            return Err(std::io::Error::last_os_error()).context("resizing the terminal");
        }
        Ok(())
    }

    /// Waits for the program to end.
    pub fn wait(mut self) -> Result<ExitStatus> {
        let child = self
            .child
            .take()
            .context("the program was already waited for")?;
        let status = command::wait(child, Duration::from_secs(20))?;
        status.with_context(|| {
            format!(
                "the program on the terminal didn't end; it showed {:?}",
                self.rest()
            )
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
