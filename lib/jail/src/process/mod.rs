//! The parent's side: starting a jailed process and talking to it.
//!
//! The process is a child with namespaces of its own, in the pod's cgroups before it is told what to be,
//! that ends with its parent.
//!
//! *Mind*: the kernel ties that to the thread that called [`Child::start`], not to its process; it must
//! be one that lives as long as the child should. The shim has but one.
//!
//! What the process says is not trusted: whoever it serves may have taken it over.

mod ended;
mod spawn;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::unistd::Pid;
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::control::{MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, packet, parse};
use crate::exit::{Done, Exit};
pub use spawn::Start;

/// How long a process that was killed is waited for. It takes longer only where a disk hangs.
const KILLING: Duration = Duration::from_secs(2);

/// A jailed process, which answers with `A`, and whose work can be done as `D` says. It is killed when
/// this is dropped.
#[derive(Debug)]
pub struct Child<A, D: Done> {
    pid: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
    /// What it said last.
    said: Option<Exit<D>>,
    /// How it ended, once it has been waited for.
    ended: Option<Exit<D>>,
    answers: std::marker::PhantomData<fn() -> A>,
}

/// What [`Child::receive`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<M> {
    /// A message.
    Message(M),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Gone,
}

impl<A: DeserializeOwned, D: Done> Child<A, D> {
    /// Starts a process; it waits for [`Child::launch`].
    ///
    /// # Errors
    /// What could not be done; then there is no process.
    pub fn start(start: &Start<'_>) -> Result<Self, Failure> {
        let (control, theirs) = packet::pair().map_err(Failure::at("make a control socket"))?;
        let (pid, pidfd) = spawn::spawn(D::PROCESS, start, theirs)?;
        let child = Self {
            pid,
            pidfd,
            control,
            said: None,
            ended: None,
            answers: std::marker::PhantomData,
        };
        // It has done nothing yet, and does nothing until it is told what to be.
        for cgroup in start.cgroups {
            join(cgroup, pid).map_err(|why| {
                let cgroup = cgroup.display();
                Failure::new(
                    format!("put the {}'s process into {cgroup}", D::PROCESS),
                    why,
                )
            })?;
        }
        if let Some(score) = start.oom_score_adj {
            fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()).map_err(
                Failure::at(format!("set the {}'s score for want of memory", D::PROCESS)),
            )?;
        }
        Ok(child)
    }

    /// Its id, as we see it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// A descriptor of it, which is readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Tells it what to be: a configuration, and the descriptors that it names by number.
    ///
    /// # Errors
    /// If that is more than there may be, or the process is gone.
    pub fn launch(
        &self,
        configuration: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let fail = |why| Failure::new(format!("launch the {}", D::PROCESS), why);
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

    /// Sends it a message. It is not waited for.
    ///
    /// # Errors
    /// If there is no room for it, or the process is gone.
    pub fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> std::io::Result<()> {
        let text = serde_json::to_vec(message)?;
        packet::send(&self.control, &text, descriptors)
    }

    /// What it says next, if it has said something; or that it never will again. The socket,
    /// [`AsFd::as_fd`], is readable when there is something to receive.
    ///
    /// # Errors
    /// If it is no message.
    pub fn receive(&mut self) -> Result<Said<Message<A, D>>, Failure> {
        let doing = || format!("receive from the {}", D::PROCESS);
        let mut room = [0; MOST_BYTES];
        let received = match packet::receive(&self.control, &mut room) {
            Ok(received) => received,
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => return Ok(Said::Nothing),
            Err(why) => return Err(Failure::new(doing(), why)),
        };
        let text = room.get(..received.length).unwrap_or_default();
        if text.is_empty() && packet::is_gone(&self.control) {
            return Ok(Said::Gone);
        }
        let message: Message<A, D> =
            parse("its message", text, received.whole).map_err(|why| Failure::new(doing(), why))?;
        if let Message::Ended(exit) = &message {
            self.said = Some(exit.clone());
        }
        Ok(Said::Message(message))
    }

    /// Waits until it may have said something, for at most as long as given.
    pub fn await_message(&self, limit: Duration) {
        await_readable(self.control.as_fd(), limit);
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn try_wait(&mut self) -> Result<Option<Exit<D>>, Failure> {
        if let Some(end) = &self.ended {
            return Ok(Some(end.clone()));
        }
        let doing = || format!("wait for the {}", D::PROCESS);
        let Some(status) =
            ended::reap(self.pidfd.as_fd()).map_err(|why| Failure::new(doing(), why))?
        else {
            return Ok(None);
        };
        // Its last words may not have been received yet.
        while matches!(self.receive(), Ok(Said::Message(_))) {}
        let end = ended::end(status, self.said.take());
        Ok(Some(self.ended.insert(end).clone()))
    }

    /// Waits until it has ended, for at most as long as given, and answers how.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn wait_within(&mut self, limit: Duration) -> Result<Option<Exit<D>>, Failure> {
        if self.ended.is_none() {
            await_readable(self.pidfd.as_fd(), limit);
        }
        self.try_wait()
    }
}

impl<A, D: Done> Child<A, D> {
    /// Kills it. How it ended is still to be waited for.
    pub fn kill(&self) {
        // It fails only where it has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl<A, D: Done> AsFd for Child<A, D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl<A, D: Done> Drop for Child<A, D> {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            await_readable(self.pidfd.as_fd(), KILLING);
            let _ = ended::reap(self.pidfd.as_fd());
        }
    }
}

/// Puts a process into a cgroup, which must be there.
fn join(cgroup: &Path, pid: Pid) -> std::io::Result<()> {
    let mut file = File::options()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?;
    file.write_all(pid.to_string().as_bytes())
}

fn await_readable(descriptor: BorrowedFd<'_>, limit: Duration) {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut poll = [PollFd::new(descriptor, PollFlags::POLLIN)];
    // A signal ends it early, and the caller sees that there is nothing yet.
    let _ = nix::poll::poll(&mut poll, limit);
}
