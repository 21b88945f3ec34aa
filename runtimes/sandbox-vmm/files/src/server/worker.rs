//! One of the server's threads: what it does while it leads, and when it doesn't.

use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::back_end::{Front, Job};
use super::leadership::InFlight;
use super::shared::{Shared, wait};
use super::stalled::{Next, Put, Waiting};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::wire::Opcode;
use crate::passthrough::{Asked, Domain, Passthrough};

/// How many requests of a queue are done before it is looked whether there is something else.
const BUDGET: usize = 64;

/// Why a thread doesn't lead any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Another one does.
    Replaced,
    /// All is over: the front end or the parent is gone.
    Over,
}

/// One of the threads.
pub struct Worker {
    shared: Arc<Shared>,
    number: usize,
    files: Passthrough,
    job: Arc<Job>,
}

impl Worker {
    /// The calling thread's, with a number of its own below [`THREADS`](super::leadership::THREADS). Number 0 leads.
    pub fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self {
            files: Passthrough::of(shared.files.clone()),
            shared,
            number,
            job: Arc::default(),
        }
    }

    /// Does what there is to be done, until all is over.
    pub fn run(mut self) -> io::Result<()> {
        if self.number != 0 {
            self.shared.lead.stand_by(self.number, &self.shared.stalled);
        }
        loop {
            match self.lead()? {
                Left::Over => return Ok(()),
                Left::Replaced => self.shared.lead.stand_by(self.number, &self.shared.stalled),
            }
        }
    }

    fn lead(&mut self) -> io::Result<Left> {
        let shared = Arc::clone(&self.shared);
        // Whoever led before may have taken what was kicked.
        shared.back_end.kick_again();
        loop {
            let ready = wait(&shared)?;
            shared.hurry()?;
            if ready.told {
                shared.lead.begin(self.number, Domain::None, None);
                let outcome = shared.change();
                let replaced = shared.lead.end(self.number).replaced;
                if !outcome? {
                    return Ok(Left::Over);
                }
                if replaced {
                    return Ok(Left::Replaced);
                }
            }
            if ready.asked && shared.back_end.hear()? == Front::Gone {
                return Ok(Left::Over);
            }
            for number in ready.kicked {
                if let Some(left) = self.work(number)? {
                    return Ok(left);
                }
            }
            if shared.locks.any()
                && let Some(left) = self.try_locks()?
            {
                return Ok(left);
            }
        }
    }

    /// Does the requests in a queue that was kicked.
    fn work(&mut self, number: usize) -> io::Result<Option<Left>> {
        let shared = Arc::clone(&self.shared);
        shared.back_end.begin(number)?;
        for _ in 0..BUDGET {
            let job = match Arc::get_mut(&mut self.job) {
                Some(job) => job,
                // Somebody is still answering the last one.
                None => {
                    self.job = Arc::default();
                    continue;
                }
            };
            if !shared.back_end.pop(number, job)? {
                return Ok(None);
            }
            if let Some(left) = self.take()? {
                return Ok(Some(left));
            }
        }
        shared.back_end.kick_again();
        Ok(None)
    }

    /// Tries those again that wait for a lock, if it is time.
    fn try_locks(&mut self) -> io::Result<Option<Left>> {
        for _ in 0..self.shared.locks.round() {
            let Some(waiting) = self.shared.locks.pop() else {
                break;
            };
            self.job = waiting.job;
            if let Some(left) = self.take()? {
                return Ok(Some(left));
            }
        }
        Ok(None)
    }

    /// Does the request that was taken, or has it wait.
    fn take(&mut self) -> io::Result<Option<Left>> {
        let Some(asked) = self.files.look(&self.job.chain.readable) else {
            self.shared.back_end.push(&self.job, 0)?;
            return Ok(None);
        };
        if self.shared.stalled.any() && self.put_off(&asked)? {
            return Ok(None);
        }
        if asked.opcode == Some(Opcode::Interrupt) {
            self.interrupt()?;
        }
        if asked.remote && self.shared.lead.is_alone() {
            self.shared.refuse(&self.job, asked.unique, Errno::EIO)?;
            return Ok(None);
        }
        if !self.perform(asked)? {
            return Ok(None);
        }
        self.catch_up(asked.domain)?;
        Ok(Some(Left::Replaced))
    }

    /// Answers the request that is interrupted, if it waits for a lock, or will wait.
    fn interrupt(&self) -> io::Result<()> {
        let Some(unique) = self.files.interrupted() else {
            return Ok(());
        };
        let is_it = |asked: &Asked| asked.unique == unique;
        if self.shared.refuse_locks(Errno::EINTR, is_it)? == 0 {
            self.shared.locks.interrupt(unique);
        }
        Ok(())
    }

    /// Whether a request is dealt with that is for a filesystem that hangs.
    fn put_off(&mut self, asked: &Asked) -> io::Result<bool> {
        let shared = &*self.shared;
        if let Some(Opcode::Release | Opcode::Releasedir) = asked.opcode {
            // Who closes does not wait for it.
            let is_stalled = shared
                .stalled
                .close(asked.domain, || self.files.release_later());
            if is_stalled {
                let length = self.files.answer_empty(&self.job.chain.writable);
                shared.back_end.push(&self.job, length)?;
            }
            return Ok(is_stalled);
        }
        if shared.is_given_up(asked) {
            shared.refuse(&self.job, asked.unique, Errno::EIO)?;
            return Ok(true);
        }
        match shared.stalled.put(&mut self.job, *asked) {
            Put::Waits => Ok(true),
            Put::Full if asked.remote => {
                shared.refuse(&self.job, asked.unique, Errno::EIO)?;
                Ok(true)
            }
            // A slow disk is no reason for an error. One thread more waits for it.
            Put::Full | Put::Free => Ok(false),
        }
    }

    /// Does the request that was read, and answers it. Whether another thread leads now.
    fn perform(&mut self, asked: Asked) -> io::Result<bool> {
        let job = Arc::clone(&self.job);
        let begun = Some(InFlight { job, asked });
        self.shared.lead.begin(self.number, asked.domain, begun);
        let chain = &self.job.chain;
        let outcome = self.files.execute(&chain.readable, &chain.writable);
        let ended = self.shared.lead.end(self.number);
        if ended.unanswered {
            self.answer(asked, outcome)?;
        }
        Ok(ended.replaced)
    }

    /// Answers what was done, or has it wait for a lock.
    fn answer(&self, asked: Asked, mut outcome: Outcome<Answer>) -> io::Result<()> {
        let shared = &*self.shared;
        if outcome == Ok(Answer::Later) && shared.locks.was_interrupted(asked.unique) {
            outcome = Err(Errno::EINTR);
        } else if outcome == Ok(Answer::Later) {
            let job = Arc::clone(&self.job);
            if shared.locks.put(Waiting { job, asked }) {
                return Ok(());
            }
            outcome = Err(Errno::ENOLCK);
        } else if shared.locks.any() && gives_back(asked.opcode) {
            shared.locks.hurry();
        }
        let length = self.files.answer(outcome, &self.job.chain.writable);
        shared.back_end.push(&self.job, length)
    }

    /// Does what has waited for a filesystem.
    fn catch_up(&mut self, domain: Domain) -> io::Result<()> {
        loop {
            match self.shared.stalled.next(domain) {
                Next::Nothing => return Ok(()),
                Next::Close(files) => drop(files),
                Next::Request(waiting) => {
                    self.job = waiting.job;
                    match self.files.look(&self.job.chain.readable) {
                        // It is not the leader who does this.
                        Some(asked) => drop(self.perform(asked)?),
                        None => self.shared.back_end.push(&self.job, 0)?,
                    }
                }
            }
        }
    }
}

/// Whether a lock may have been given back by it.
fn gives_back(opcode: Option<Opcode>) -> bool {
    use Opcode::{Flush, Release, Setlk, Setlkw};
    matches!(opcode, Some(Setlk | Setlkw | Flush | Release))
}
