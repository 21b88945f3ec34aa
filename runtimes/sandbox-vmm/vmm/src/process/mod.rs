//! The parent's side: starting a machine's process and talking to it.
//!
//! The process is a child with namespaces of its own, in the pod's cgroups before it is told what
//! machine to be, that ends with its parent.
//!
//! *Mind*: the kernel ties that to the thread that called [`start`], not to its process; it must be
//! one that lives as long as the machine should. The shim has but one.
//!
//! What the process says is not trusted: a guest may have taken it over.

mod ended;
mod spawn;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::unistd::Pid;
use serde::Serialize;

use crate::control::{
    Attach, MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, Request, packet, parse,
};
use crate::exit::Exit;

/// The most requests that may be unanswered. There is room for their answers, so none is lost.
const MOST_UNANSWERED: usize = 16;

/// How long a process that was killed is waited for. It takes longer only where a disk hangs.
const KILLING: Duration = Duration::from_secs(2);

/// What went wrong with the process.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Failure {
    doing: String,
    why: String,
}

impl Failure {
    fn new(doing: impl Into<String>, why: impl ToString) -> Self {
        Self {
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    /// For `map_err` on a system call's outcome.
    fn at<E: ToString>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::new(doing, why)
    }
}

/// What to start, and where.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The program, or this one again.
    pub program: Option<&'a Path>,
    /// Its arguments, the zeroth included. Its environment is empty.
    pub arguments: &'a [&'a str],
    /// What it writes to as its standard error.
    pub log: BorrowedFd<'a>,
    /// The directories of the cgroups it is put into: one of each hierarchy.
    pub cgroups: &'a [PathBuf],
    /// How ready the kernel should be to kill it for want of memory, or as its parent's.
    pub oom_score_adj: Option<i16>,
}

/// A machine's process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
    unanswered: usize,
    /// What it said last.
    said: Option<Exit>,
    /// How it ended, once it has been waited for.
    ended: Option<Exit>,
}

/// Starts a process; it waits for [`Process::launch`].
pub fn start(start: &Start<'_>) -> Result<Process, Failure> {
    let (control, theirs) = packet::pair().map_err(Failure::at("make a control socket"))?;
    let (pid, pidfd) = spawn::spawn(start, theirs)?;
    let process = Process {
        pid,
        pidfd,
        control,
        unanswered: 0,
        said: None,
        ended: None,
    };
    // It has done nothing yet, and does nothing until it is told what machine to be.
    for cgroup in start.cgroups {
        join(cgroup, pid).map_err(|why| {
            Failure::new(
                format!("put the machine's process into {}", cgroup.display()),
                why,
            )
        })?;
    }
    if let Some(score) = start.oom_score_adj {
        fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
            .map_err(Failure::at("set the machine's score for want of memory"))?;
    }
    Ok(process)
}

/// Puts a process into a cgroup, which must be there.
fn join(cgroup: &Path, pid: Pid) -> std::io::Result<()> {
    let mut file = File::options()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?;
    file.write_all(pid.to_string().as_bytes())
}

impl Process {
    /// Its id, as we see it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// A descriptor of it, which is readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Tells it what machine to be: a configuration, and the descriptors that it names by number.
    pub fn launch<C: Serialize>(
        &self,
        configuration: &C,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let fail = |why| Failure::new("launch the machine", why);
        let text = serde_json::to_vec(configuration).map_err(|why| fail(why.to_string()))?;
        if text.len() > MOST_LAUNCH_BYTES {
            let length = text.len();
            return Err(fail(format!(
                "its configuration has {length} bytes, more than {MOST_LAUNCH_BYTES}"
            )));
        }
        if descriptors.len() > MOST_DESCRIPTORS {
            let count = descriptors.len();
            return Err(fail(format!(
                "it needs {count} descriptors, more than {MOST_DESCRIPTORS}"
            )));
        }
        packet::send(&self.control, &text, descriptors).map_err(|why| fail(why.to_string()))
    }

    /// Asks for something. The answers come as [`Message::Answer`], in the requests' order.
    pub fn request(&mut self, request: &Request) -> Result<(), Failure> {
        self.ask(request, &[])
    }

    /// Asks it to put a disk of these files into a place. The answer comes as to any request.
    pub fn attach(&mut self, disk: Attach, files: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        self.ask(&Request::Attach(disk), files)
    }

    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let fail = |why| Failure::new(format!("ask the machine to {request:?}"), why);
        if self.unanswered >= MOST_UNANSWERED {
            return Err(fail(format!("{MOST_UNANSWERED} requests are unanswered")));
        }
        let text = serde_json::to_vec(request).map_err(|why| fail(why.to_string()))?;
        packet::send(&self.control, &text, descriptors).map_err(|why| fail(why.to_string()))?;
        self.unanswered += 1;
        Ok(())
    }

    /// How many requests it has not answered yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// What it says next, if it has said something; or that it never will again. The socket,
    /// [`AsFd::as_fd`], is readable when there is something to receive.
    pub fn receive(&mut self) -> Result<Said, Failure> {
        let mut room = [0; MOST_BYTES];
        let received = match packet::receive(&self.control, &mut room) {
            Ok(received) => received,
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => return Ok(Said::Nothing),
            Err(why) => return Err(Failure::new("receive from the machine", why)),
        };
        let text = room.get(..received.length).unwrap_or_default();
        if text.is_empty() && packet::is_gone(&self.control) {
            return Ok(Said::Gone);
        }
        let message = parse("the machine's message", text, received.whole)
            .map_err(|why| Failure::new("receive from the machine", why))?;
        match &message {
            Message::Running => {}
            Message::Answer(_) => {
                self.unanswered = self.unanswered.checked_sub(1).ok_or_else(|| {
                    Failure::new("receive from the machine", "it answers what nobody asked")
                })?;
            }
            Message::Ended(exit) => self.said = Some(exit.clone()),
        }
        Ok(Said::Message(message))
    }

    /// Waits for what it says next, for at most as long as given.
    pub fn receive_within(&mut self, limit: Duration) -> Result<Said, Failure> {
        await_readable(self.control.as_fd(), limit);
        self.receive()
    }

    /// Kills it. How it ended is still to be waited for.
    pub fn kill(&self) {
        // SAFETY: the call takes a descriptor, which is open, numbers, and a pointer that may be
        // null.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, Failure> {
        if let Some(exit) = &self.ended {
            return Ok(Some(exit.clone()));
        }
        let Some(status) =
            ended::reap(self.pidfd.as_fd()).map_err(Failure::at("wait for the machine"))?
        else {
            return Ok(None);
        };
        // Its last words may not have been received yet.
        while matches!(self.receive(), Ok(Said::Message(_))) {}
        let exit = ended::exit(status, self.said.take());
        Ok(Some(self.ended.insert(exit).clone()))
    }

    /// Waits until it has ended, for at most as long as given, and answers how.
    pub fn wait_within(&mut self, limit: Duration) -> Result<Option<Exit>, Failure> {
        if self.ended.is_none() {
            await_readable(self.pidfd.as_fd(), limit);
        }
        self.try_wait()
    }
}

/// What [`Process::receive`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A message.
    Message(Message),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Gone,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.wait_within(KILLING);
        }
    }
}

fn await_readable(descriptor: BorrowedFd<'_>, limit: Duration) {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut poll = [PollFd::new(descriptor, PollFlags::POLLIN)];
    // A signal ends it early, and the caller sees that there is nothing yet.
    let _ = nix::poll::poll(&mut poll, limit);
}
