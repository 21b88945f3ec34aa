//! How the new process tells whether it became the requested program.
//!
//! Over a pipe that closes at `execve`: a readiness byte just before it, the text of an error if
//! there was one, end of file. The byte tells a program that started from a process that was killed
//! on the way there, which both close the pipe.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::descriptors::REPORT;
use super::error::{Doing, Failure};

/// Not the first byte of any UTF-8 text.
const READY: u8 = 0xff;
/// An error is a sentence or two; the pipe takes this much without a reader.
const LONGEST: u64 = 16 * 1024;

/// Both ends, before the fork.
#[derive(Debug)]
pub(crate) struct Report {
    reader: File,
    writer: OwnedFd,
}

impl Report {
    pub(crate) fn new() -> Result<Self, Failure> {
        let (reader, writer) =
            pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe to the new process")?;
        Ok(Self {
            reader: File::from(reader),
            writer,
        })
    }

    /// The new process's end.
    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Waits until the process runs its program, or says why it does not.
    pub(crate) fn wait(self) -> Result<(), String> {
        drop(self.writer);
        let mut bytes = Vec::new();
        match self.reader.take(LONGEST).read_to_end(&mut bytes) {
            Ok(_) => interpret(&bytes),
            Err(error) => Err(format!("cannot read the new process's report: {error}")),
        }
    }
}

fn interpret(bytes: &[u8]) -> Result<(), String> {
    let (ready, message) = match bytes.split_first() {
        Some((&READY, message)) => (true, message),
        _ => (false, bytes),
    };
    match (ready, message) {
        (true, []) => Ok(()),
        (false, []) => Err(
            "the new process was killed before it could run the program; \
            the container may be out of memory, stopping, or its seccomp profile may be too strict"
                .to_owned(),
        ),
        (_, message) => Err(String::from_utf8_lossy(message).into_owned()),
    }
}

/// Says, in the new process, that nothing but the program's own start is left to do.
pub(crate) fn ready() {
    send(REPORT, &[READY]);
}

/// Says, in the new process, why there will be no program, on the pipe at `fd`.
pub(crate) fn failed(fd: RawFd, failure: &Failure) {
    send(fd, failure.to_string().as_bytes());
}

fn send(fd: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: write reads `bytes.len()` bytes of `bytes`; a number that is no open descriptor
        // is an error, not a hazard.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
            _ if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
            // The reader is gone: nobody is left to tell.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood() {
        assert_eq!(interpret(&[READY]), Ok(()));
        assert_eq!(interpret(b"no such file"), Err("no such file".to_owned()));
        assert_eq!(
            interpret(b"\xffexec /x: busy"),
            Err("exec /x: busy".to_owned())
        );
        assert!(interpret(b"").unwrap_err().contains("killed"));
    }
}
