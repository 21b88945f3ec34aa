//! The parent's side: starting a machine's process and talking to it.
//!
//! How the process is made, and what is believed of what it says, is told in [`trefoil_jail::process`].
//!
//! *Mind*: the machine ends with the *thread* that called [`start`], not with its process.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::Serialize;
use trefoil_jail::Child;
pub use trefoil_jail::{Failure, Start};

use super::control::{Answer, Attach, Message, Request};
use super::exit::{Exit, Stop};

/// The most requests that may be unanswered. There is room for their answers, so none is lost.
const MOST_UNANSWERED: usize = 16;

/// What [`Process::receive`] got.
pub type Said = trefoil_jail::Said<Message>;

/// A machine's process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child<Answer, Stop>,
    unanswered: usize,
}

/// Starts a process; it waits for [`Process::launch`].
///
/// # Errors
/// What could not be done; then there is no process.
pub fn start(start: &Start<'_>) -> Result<Process, Failure> {
    Ok(Process {
        child: Child::start(start)?,
        unanswered: 0,
    })
}

impl Process {
    /// Its id, as we see it.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A descriptor of it, which is readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Tells it what machine to be: a configuration, and the descriptors that it names by number.
    ///
    /// # Errors
    /// If that is more than there may be, or the process is gone.
    pub fn launch<C: Serialize>(
        &self,
        configuration: &C,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        self.child.launch(configuration, descriptors)
    }

    /// Asks for something. The answers come as [`Message::Answer`], in the requests' order.
    ///
    /// # Errors
    /// If too many requests are unanswered, or the process is gone.
    pub fn request(&mut self, request: &Request) -> Result<(), Failure> {
        self.ask(request, &[])
    }

    /// Asks it to put a disk of these files into a slot. The answer comes as to any request.
    ///
    /// # Errors
    /// As [`Process::request`].
    pub fn attach(&mut self, disk: Attach, files: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        self.ask(&Request::Attach(disk), files)
    }

    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let fail = |why| Failure::new(format!("ask the VMM to {request:?}"), why);
        if self.unanswered >= MOST_UNANSWERED {
            return Err(fail(format!("{MOST_UNANSWERED} requests are unanswered")));
        }
        let sent = self.child.send(request, descriptors);
        sent.map_err(|why| fail(why.to_string()))?;
        self.unanswered += 1;
        Ok(())
    }

    /// How many requests it has not answered yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// What it says next, if it has said something; or that it never will again. The socket,
    /// [`AsFd::as_fd`], is readable when there is something to receive.
    ///
    /// # Errors
    /// If what it says makes no sense.
    pub fn receive(&mut self) -> Result<Said, Failure> {
        let said = self.child.receive()?;
        if let Said::Message(Message::Answer(_)) = &said {
            self.unanswered = self.unanswered.checked_sub(1).ok_or_else(|| {
                Failure::new("receive from the VMM", "it answers what nobody asked")
            })?;
        }
        Ok(said)
    }

    /// Waits for what it says next, for at most as long as given.
    ///
    /// # Errors
    /// As [`Process::receive`].
    pub fn receive_within(&mut self, limit: Duration) -> Result<Said, Failure> {
        self.child.await_message(limit);
        self.receive()
    }

    /// Kills it. How it ended is still to be waited for.
    pub fn kill(&self) {
        self.child.kill();
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, Failure> {
        self.child.try_wait()
    }

    /// Waits until it has ended, for at most as long as given, and answers how.
    ///
    /// # Errors
    /// As [`Process::try_wait`].
    pub fn wait_within(&mut self, limit: Duration) -> Result<Option<Exit>, Failure> {
        self.child.wait_within(limit)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}
