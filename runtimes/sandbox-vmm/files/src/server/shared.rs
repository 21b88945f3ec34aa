//! What the server's threads have together.
//!
//! One of them leads ([`super::leadership`]): it hears the parent, the front end and the guest, and does their requests
//! itself, one after the other, as if it were alone ([`super::worker`]). When it hangs in one, another leads,
//! and that filesystem's requests wait ([`super::stalled`]). When the call returns at last, its thread
//! answers it, does what has waited, and waits with the others.
//!
//! The last thread has nobody who would take the lead: it does nothing for filesystems that others
//! answer for.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::back_end::{BackEnd, Job};
use super::changes::Changes;
use super::leadership::Leadership;
use super::lock_waiters::LockWaiters;
use super::stalled::Stalled;
use crate::fuse::answer;
use crate::message::Change;
use crate::passthrough::{Asked, Files};

/// How often it is looked for what hangs, while nobody is to wait for that.
const LOOK: Duration = Duration::from_millis(100);

/// What all threads have.
pub struct Shared {
    pub(super) back_end: BackEnd,
    changes: Changes,
    pub(super) files: Files,
    pub(super) stalled: Stalled,
    pub(super) locks: LockWaiters,
    pub(super) lead: Leadership,
    hurried: AtomicBool,
}

impl Shared {
    /// Serves these files to a front end, as the parent says.
    pub fn new(back_end: BackEnd, changes: Changes, files: Files) -> Self {
        Self {
            back_end,
            changes,
            files,
            stalled: Stalled::default(),
            locks: LockWaiters::default(),
            lead: Leadership::default(),
            hurried: AtomicBool::new(false),
        }
    }

    /// Whether a filesystem hangs.
    #[cfg(test)]
    pub fn is_stalled(&self) -> bool {
        self.stalled.any()
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&self, job: &Job, unique: u64, why: Errno) -> io::Result<()> {
        let length = answer::write(unique, Err(why), &[], &job.chain.writable);
        self.back_end.push(job, length)
    }

    /// Whether nobody is to wait for a filesystem that hangs.
    fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    /// Answers, if nobody is to wait, all that hangs where a daemon or a server does not answer. A disk of
    /// the node's may be as slow as it likes: an error of its is one that databases stop for.
    pub(super) fn hurry(&self) -> io::Result<()> {
        if !self.is_hurried() {
            return Ok(());
        }
        let dead = self.stalled.dead(Instant::now());
        self.give_up(|asked| asked.remote && dead.contains(&asked.domain))
    }

    /// Whether a request is answered so at once.
    pub(super) fn is_given_up(&self, asked: &Asked) -> bool {
        self.is_hurried()
            && asked.remote
            && self.stalled.dead(Instant::now()).contains(&asked.domain)
    }

    /// Answers all that these words are true of and that can be answered, whatever hangs.
    fn give_up(&self, which: impl Fn(&Asked) -> bool) -> io::Result<()> {
        for begun in self.lead.take(|asked| asked.early && which(asked)) {
            self.refuse(&begun.job, begun.asked.unique, Errno::EIO)?;
        }
        for one in &self.stalled.take(&which) {
            self.refuse(&one.job, one.asked.unique, Errno::EIO)?;
        }
        self.refuse_locks(Errno::EIO, which)?;
        Ok(())
    }

    /// Answers what waits for a lock with an error. Says how many that were.
    pub(super) fn refuse_locks(
        &self,
        why: Errno,
        which: impl Fn(&Asked) -> bool,
    ) -> io::Result<usize> {
        let waiting = self.locks.take(which);
        for one in &waiting {
            self.refuse(&one.job, one.asked.unique, why)?;
        }
        Ok(waiting.len())
    }

    /// Makes what the parent says next. `false` once it is gone.
    pub(super) fn change(&self) -> io::Result<bool> {
        self.changes.make(|change| match change {
            Change::Add(name, shown) => {
                self.files.add(&name, shown);
                Ok(Vec::new())
            }
            Change::Remove(name) => {
                let removed = self.files.remove(&name);
                if let Some(tree) = removed.tree {
                    self.give_up(|asked| asked.is_lost(tree, &self.files))?;
                }
                Ok(removed.remote)
            }
            Change::Hurry(on) => {
                self.hurried.store(on, Ordering::Relaxed);
                self.hurry()?;
                Ok(Vec::new())
            }
        })
    }
}

/// What there is to be done.
pub struct Ready {
    /// The parent says something.
    pub told: bool,
    /// The front end does.
    pub asked: bool,
    /// The guest has kicked these queues.
    pub kicked: Vec<usize>,
}

/// Waits until there is something to be done.
pub fn wait(shared: &Shared) -> io::Result<Ready> {
    let kicks = shared.back_end.kicks();
    let mut polled = vec![
        PollFd::new(shared.changes.as_fd(), PollFlags::POLLIN),
        PollFd::new(shared.back_end.as_fd(), PollFlags::POLLIN),
    ];
    polled.extend(
        kicks
            .iter()
            .map(|(_, kick)| PollFd::new(*kick, PollFlags::POLLIN)),
    );
    let locks = match shared.locks.any() {
        false => None,
        true => shared.locks.due(),
    };
    let looking = shared.is_hurried().then_some(LOOK);
    let due = locks.into_iter().chain(looking).min();
    let timeout = due.map_or(PollTimeout::NONE, |due| {
        PollTimeout::try_from(due + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
    });
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(why) => return Err(why.into()),
    }
    let mut ready = polled.iter().map(|polled| polled.any().unwrap_or(true));
    let (told, asked) = (ready.next(), ready.next());
    let kicked = kicks
        .iter()
        .zip(ready)
        .filter(|(_, ready)| *ready)
        .map(|((number, _), _)| *number)
        .collect();
    Ok(Ready {
        told: told == Some(true),
        asked: asked == Some(true),
        kicked,
    })
}
