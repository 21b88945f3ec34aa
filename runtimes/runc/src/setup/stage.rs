//! The stage: a short-lived process between the worker, which acts on the host, and a process of a
//! container, which it prepares everything for and then creates.
//!
//! It goes into the container's namespaces, but never into its pid namespace, so that no process of
//! the container can see it, trace it or take its descriptors, while it still has the host's root,
//! directories and rights. What it creates in the pid namespace is bare of all that from birth.
//!
//! ```text
//!  worker ──clone──▶ stage ──clone──▶ the container's process
//!    ▲  └── channel ──┘  └── shared pid: its number ──▶ worker
//!    └───────────────────── line ─────────────────────┘
//! ```

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use trefoil_os::process::exit_now;

use super::channel::{Channel, Message};
use super::error::{Doing, Failure};
use super::fork::{self, Forked, Place};
use super::shared_pid::SharedPid;

/// The word for a failure, whose text says what failed.
const FAILED: u8 = b'!';

/// The worker's side.
#[derive(Debug)]
pub(crate) struct Stage {
    pid: Pid,
    pidfd: OwnedFd,
    channel: Channel,
    shared_pid: SharedPid,
}

/// The stage's side.
#[derive(Debug)]
pub(crate) struct Actor {
    channel: Option<Channel>,
    shared_pid: SharedPid,
}

impl Stage {
    /// Starts a stage, in this cgroup of v2 if one is given. What it does is `act`, which may be
    /// killed at any moment. The caller must be single-threaded.
    pub(crate) fn begin(
        cgroup: Option<BorrowedFd<'_>>,
        act: impl FnOnce(&mut Actor) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let (ours, theirs) = Channel::pair().doing(|| "make sockets to the process to be")?;
        let shared_pid = SharedPid::new().doing(|| "make memory to share")?;
        let place = Place {
            cgroup,
            ..Place::default()
        };
        match fork::sibling(place).doing(|| "create a process")? {
            Forked::Child => {
                drop(ours);
                let mut actor = Actor {
                    channel: Some(theirs),
                    shared_pid,
                };
                if let Err(failure) = act(&mut actor) {
                    actor.fail(&failure);
                }
                // The worker's destructors and exit handlers are not this copy's to run.
                exit_now(0)
            }
            Forked::Parent { pid, pidfd } => Ok(Self {
                pid,
                pidfd,
                channel: ours,
                shared_pid,
            }),
        }
    }

    /// Its number on the host.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Says something to it.
    pub(crate) fn say(&self, word: u8, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        self.channel
            .say(word, "", descriptors)
            .doing(|| "talk to the process that prepares the container")
    }

    /// What it says next; its failure, if it has failed. `None` when it has nothing more to say.
    pub(crate) fn hear(&self) -> Result<Option<Message>, Failure> {
        let said = self
            .channel
            .hear()
            .doing(|| "listen to the process that prepares the container")?;
        match said {
            Some(said) if said.word == FAILED => Err(Failure::new(said.text)),
            other => Ok(other),
        }
    }

    /// What it says next, which is to be this.
    pub(crate) fn hear_that(&self, word: u8) -> Result<Message, Failure> {
        match self.hear()? {
            Some(said) if said.word == word => Ok(said),
            _ => Err(killed()),
        }
    }

    /// Waits for its end. Returns the process that it has created, which is a child of this process's
    /// parent.
    pub(crate) fn end(self) -> Result<(Pid, OwnedFd), Failure> {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut ended, None) {}
        let number = self.shared_pid.read();
        let doing = || "create a process in the container";
        match number {
            0 => Err(killed()),
            errno @ ..0 => Err(Errno::from_raw(-errno)).doing(doing),
            pid => {
                let number = rustix::process::Pid::from_raw(pid).ok_or_else(killed)?;
                let pidfd = pidfd_open(number, PidfdFlags::empty()).doing(doing)?;
                Ok((Pid::from_raw(pid), pidfd))
            }
        }
    }

    /// Whether it is the process that was created: none, or its number.
    pub(crate) fn created(&self) -> Option<Pid> {
        let number = self.shared_pid.read();
        (number > 0).then(|| Pid::from_raw(number))
    }
}

fn killed() -> Failure {
    Failure::new(
        "the process that prepares the container was killed; \
         the container's memory limit may be too small for it",
    )
}

impl Actor {
    /// Says something to the worker.
    pub(crate) fn say(
        &self,
        word: u8,
        text: &str,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        channel
            .say(word, text, descriptors)
            .doing(|| "talk to the worker")
    }

    /// Waits until the worker says this. When it says something else or is gone, there is nobody left
    /// to do anything for.
    pub(crate) fn wait_for(&self, word: u8) -> Result<Message, Failure> {
        let said = self.channel.as_ref().map(Channel::hear);
        match said {
            Some(Ok(Some(said))) if said.word == word => Ok(said),
            Some(Err(errno)) => Err(errno).doing(|| "listen to the worker"),
            _ => Err(Failure::new("the worker has gone")),
        }
    }

    /// Creates the container's process, and leaves its number for the worker.
    pub(crate) fn create(&self, new_pid_namespace: bool) -> Result<Forked, Failure> {
        self.clone_into(new_pid_namespace)
            .doing(|| "create a process in the container")
    }

    /// As [`create`](Self::create), when nothing is left to do: the new process is what `child` makes of
    /// it, and the stage ends. No destructor runs, as the descriptors that owners of this process have may
    /// be closed by now.
    pub(crate) fn create_last(&self, child: impl FnOnce() -> Infallible) -> ! {
        if let Ok(Forked::Child) = self.clone_into(false) {
            match child() {}
        }
        exit_now(0)
    }

    fn clone_into(&self, new_pid_namespace: bool) -> Result<Forked, Errno> {
        let kept = self.shared_pid.keep_from_children();
        kept.map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        let place = Place {
            new_pid_namespace,
            ..Place::default()
        };
        let made = fork::sibling(place);
        match &made {
            Ok(Forked::Parent { pid, .. }) => self.shared_pid.write(pid.as_raw()),
            Ok(Forked::Child) => {}
            Err(errno) => self.shared_pid.write(-(*errno as i32)),
        }
        made
    }

    fn fail(&self, failure: &Failure) {
        // If nobody listens, nobody is interested.
        let _ = self.say(FAILED, &failure.to_string(), &[]);
    }
}
