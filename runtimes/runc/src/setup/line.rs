//! The line between a process that becomes a container's program and whoever had it made.
//!
//! A pair of stream sockets, of which the process's end closes at `execve`. The process says that
//! nothing but its program's start is left to do ([`READY`]), or the text of an error. A container's
//! init then waits at the gate: for one byte ([`GO`]), which comes when the container is started, or
//! for the end of the line, when nobody is left to start it. After that it says [`READY`] once more,
//! so that a program that started is told from a process that was killed on the way there.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use trefoil_os::message::{self, Wait};
use trefoil_os::process::exit_now;

use super::descriptors::LINE;
use super::error::{Doing, Failure};

/// Not the first byte of any UTF-8 text.
pub(crate) const READY: u8 = 0xff;
/// Goes with the descriptor of a seccomp filter.
const FILTER: u8 = 0xfe;
/// What opens the gate.
pub(crate) const GO: u8 = b'g';
/// An error is a sentence or two; the socket takes this much without a reader.
pub(crate) const LONGEST: usize = 16 * 1024;

/// Both ends, before the fork.
#[derive(Debug)]
pub(crate) struct Line {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Line {
    pub(crate) fn new() -> Result<Self, Failure> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .doing(|| "make a line to the new process")?;
        Ok(Self { ours, theirs })
    }

    /// The new process's end.
    pub(crate) fn theirs(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Keeps only the end of who listens.
    pub(crate) fn listen(self) -> Listener {
        Listener(self.ours.into())
    }
}

/// The end of who had the process made.
#[derive(Debug)]
pub(crate) struct Listener(File);

impl Listener {
    /// Waits until the process runs its program, or says why it does not.
    pub(crate) fn wait_for_program(mut self) -> Result<(), String> {
        self.rest(Vec::new())
    }

    /// Waits until the process is at the gate, or says why it never will be. The answer is the end of
    /// the line that opens the gate. `take_filter` takes the descriptor of a seccomp filter that asks an
    /// agent, should the process have one.
    pub(crate) fn wait_for_gate(
        mut self,
        mut take_filter: impl FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<OwnedFd, String> {
        loop {
            match self.first() {
                Ok((Some(READY), _)) => return Ok(self.0.into()),
                Ok((Some(FILTER), Some(filter))) => take_filter(filter)?,
                Ok((first, _)) => {
                    return Err(self
                        .rest(first.into_iter().collect())
                        .err()
                        .unwrap_or_default());
                }
                Err(error) => return Err(unreadable(&error)),
            }
        }
    }

    /// The next byte, and a descriptor that came along.
    fn first(&self) -> std::io::Result<(Option<u8>, Option<OwnedFd>)> {
        let mut byte = [0];
        let mut descriptor = None;
        let take = |given| descriptor = Some(given);
        let received = message::receive(&self.0, &mut byte, Wait::Yes, take)?;
        Ok(((received.length > 0).then_some(byte[0]), descriptor))
    }

    /// Why the process, which has ended, did not run its program, if it has said so.
    pub(crate) fn failure(mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let limit = LONGEST as u64;
        (&mut self.0).take(limit).read_to_end(&mut bytes).ok()?;
        match bytes.first() {
            None | Some(&READY) => None,
            Some(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn rest(&mut self, mut bytes: Vec<u8>) -> Result<(), String> {
        let read = (&mut self.0).take(LONGEST as u64).read_to_end(&mut bytes);
        match read {
            Ok(_) => interpret(&bytes),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

fn unreadable(error: &std::io::Error) -> String {
    format!("cannot read the new process's report: {error}")
}

/// What a process has said before the line ended.
pub(crate) fn interpret(bytes: &[u8]) -> Result<(), String> {
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

/// Says, in the new process, that it has done all it could.
pub(crate) fn ready() {
    send(own_end(), &[READY]);
}

/// The line's end, in the new process.
pub(crate) fn own_end() -> BorrowedFd<'static> {
    // SAFETY: `arrange` or `keep` has put the line there; it is open as long as this process has no
    // program, and nothing here owns it.
    unsafe { BorrowedFd::borrow_raw(LINE) }
}

/// Says, in the new process, why there will be no program.
pub(crate) fn failed(line: BorrowedFd<'_>, failure: &Failure) {
    send(line, failure.to_string().as_bytes());
}

/// Gives, in the new process, the descriptor of a seccomp filter that asks an agent.
pub(crate) fn give_filter(filter: BorrowedFd<'_>) -> Result<(), Failure> {
    let said = [IoSlice::new(&[FILTER])];
    message::send(own_end(), &said, &[filter], Wait::Yes)
        .map(drop)
        .doing(|| "hand over the seccomp filter's listener")
}

/// Waits, in the new process, until the gate is opened. When nobody is left to open it, the process
/// ends: there is nobody to tell, either.
pub(crate) fn wait_at_gate() {
    let mut byte = 0_u8;
    loop {
        match rustix::io::read(own_end(), std::slice::from_mut(&mut byte)) {
            Ok(1) if byte == GO => return,
            Err(Errno::INTR) => {}
            _ => exit_now(FAILED),
        }
    }
}

/// The exit status of a process that did not become its program. Nobody should see it: the failure is
/// reported instead.
pub(crate) const FAILED: libc::c_int = 255;

fn send(line: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(line, bytes) {
            Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // The reader is gone: nobody is left to tell.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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

    #[test]
    fn a_process_at_the_gate_is_told_from_one_that_failed() {
        let say = |bytes: &[u8]| {
            let line = Line::new().unwrap();
            File::from(line.theirs.try_clone().unwrap())
                .write_all(bytes)
                .unwrap();
            drop(line.theirs);
            Listener(line.ours.into()).wait_for_gate(|_| Ok(()))
        };
        assert!(say(&[READY]).is_ok());
        assert_eq!(say(b"no cwd").unwrap_err(), "no cwd");
        assert!(say(b"").unwrap_err().contains("killed"));
    }
}
