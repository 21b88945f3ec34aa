//! The server's threads.
//!
//! One of them leads: it hears the parent, the VMM and the guest, and does their requests itself, one
//! after the other, as if it were alone. Another one watches it, and the rest wait. When the leader is in
//! one request for long, the watcher takes the lead, the filesystem counts as one that hangs
//! ([`super::stalled`]), and another thread watches. When the call returns at last, its thread answers it,
//! does what has waited for that filesystem, and waits with the others.
//!
//! The last thread has nobody who would take the lead: it does nothing for filesystems that others
//! answer for, which would be refused by all others too.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::back_end::{BackEnd, Front, Job};
use super::changes::Changes;
use super::stalled::{Next, Put, Stalled};
use crate::fuse::answer;
use crate::fuse::wire::Opcode;
use crate::message::Change;
use crate::passthrough::{Asked, Domain, Files, Passthrough};

/// How many there are: so many filesystems, less two, can hang at a time and hurt only their users.
pub const THREADS: usize = 16;
/// How long the leader may be in one request.
const LONG: Duration = Duration::from_millis(100);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(50);
/// How many requests of a queue are done before it is looked whether there is something else.
const BUDGET: usize = 64;

/// What all threads have.
pub struct Crew {
    back_end: BackEnd,
    changes: Changes,
    files: Files,
    stalled: Stalled,
    /// Who leads.
    leader: AtomicUsize,
    /// Nobody could take the lead.
    alone: AtomicBool,
    desks: [Desk; THREADS],
    bench: Mutex<Bench>,
    changed: Condvar,
}

/// Those that don't work.
#[derive(Default)]
struct Bench {
    waiting: usize,
    /// One of them watches.
    watched: bool,
}

/// What one thread does.
#[derive(Default)]
struct Desk(Mutex<Doing>);

#[derive(Default)]
struct Doing {
    /// Counts what it has begun.
    turn: u64,
    busy: bool,
    domain: Option<Domain>,
    /// The request, until it is answered.
    request: Option<Begun>,
    /// Another one leads now.
    deposed: bool,
    /// Who is to be woken when it begins something.
    watcher: Option<Thread>,
}

/// A request that is being done.
struct Begun {
    job: Arc<Job>,
    asked: Asked,
}

impl Desk {
    fn locked(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a request.
struct Ended {
    /// Nobody has answered it meanwhile.
    unanswered: bool,
    /// Another one leads now.
    deposed: bool,
}

/// Why a thread doesn't lead any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Another one does.
    Deposed,
    /// All is over: the VMM or the parent is gone.
    Over,
}

impl Crew {
    /// Serves these files to a VMM, as the parent says.
    pub fn new(back_end: BackEnd, changes: Changes, files: Files) -> Self {
        Self {
            back_end,
            changes,
            files,
            stalled: Stalled::default(),
            leader: AtomicUsize::new(0),
            alone: AtomicBool::new(false),
            desks: Default::default(),
            bench: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Whether a filesystem hangs.
    #[cfg(test)]
    pub fn is_stalled(&self) -> bool {
        self.stalled.any()
    }

    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request with an error.
    fn refuse(&self, job: &Job, unique: u64, why: Errno) -> io::Result<()> {
        let length = answer::write(unique, Err(why), &[], &job.chain.writable);
        self.back_end.push(job, length)
    }

    /// Answers all that is asked of a tree and can be answered, whatever hangs.
    fn give_up(&self, tree: u32) -> io::Result<()> {
        for desk in &self.desks {
            let is_it = |begun: &mut Begun| begun.asked.tree == tree && begun.asked.early;
            let taken = desk.locked().request.take_if(is_it);
            if let Some(Begun { job, asked }) = taken {
                self.refuse(&job, asked.unique, Errno::EIO)?;
            }
        }
        for waiting in self.stalled.take(|asked| asked.tree == tree) {
            self.refuse(&waiting.job, waiting.asked.unique, Errno::EIO)?;
        }
        Ok(())
    }

    /// Makes what the parent says next. `false` once it is gone.
    fn change(&self) -> io::Result<bool> {
        self.changes.make(|change| match change {
            Change::Add(name, shown) => {
                self.files.add(&name, shown);
                Ok(Vec::new())
            }
            Change::Remove(name) => {
                let removed = self.files.remove(&name);
                if let Some(tree) = removed.tree {
                    self.give_up(tree)?;
                }
                Ok(removed.remote)
            }
            Change::Abandon(name) => {
                if let Some(tree) = self.files.abandon(&name) {
                    self.give_up(tree)?;
                }
                Ok(Vec::new())
            }
        })
    }
}

/// One of the threads.
pub struct Hand {
    crew: Arc<Crew>,
    number: usize,
    files: Passthrough,
    job: Arc<Job>,
}

impl Hand {
    /// The calling thread's, with a number of its own below [`THREADS`]. Number 0 leads.
    pub fn new(crew: Arc<Crew>, number: usize) -> Self {
        Self {
            files: Passthrough::of(crew.files.clone()),
            crew,
            number,
            job: Arc::default(),
        }
    }

    /// Does what there is to be done, until all is over.
    pub fn run(mut self) -> io::Result<()> {
        if self.number != 0 {
            self.stand_by();
        }
        loop {
            match self.lead()? {
                Left::Over => return Ok(()),
                Left::Deposed => self.stand_by(),
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Doing> {
        static NOBODY: Desk = Desk(Mutex::new(Doing {
            turn: 0,
            busy: false,
            domain: None,
            request: None,
            deposed: false,
            watcher: None,
        }));
        self.crew.desks.get(self.number).unwrap_or(&NOBODY).locked()
    }

    /// Begins something that may take long.
    fn begin(&self, domain: Domain, request: Option<Begun>) {
        let mut doing = self.desk();
        doing.turn = doing.turn.wrapping_add(1);
        doing.busy = true;
        doing.domain = Some(domain);
        doing.request = request;
        let watcher = doing.watcher.take();
        drop(doing);
        if let Some(watcher) = watcher {
            watcher.unpark();
        }
    }

    fn end(&self) -> Ended {
        let mut doing = self.desk();
        doing.busy = false;
        Ended {
            unanswered: doing.request.take().is_some(),
            deposed: std::mem::take(&mut doing.deposed),
        }
    }

    /// Waits until this thread leads.
    fn stand_by(&self) {
        let crew = &*self.crew;
        let mut bench = crew.bench();
        bench.waiting += 1;
        crew.alone.store(false, Ordering::Relaxed);
        while bench.watched {
            let woken = crew.changed.wait(bench);
            bench = woken.unwrap_or_else(PoisonError::into_inner);
        }
        bench.watched = true;
        drop(bench);
        self.watch();
        let mut bench = crew.bench();
        bench.watched = false;
        bench.waiting -= 1;
        crew.alone.store(bench.waiting == 0, Ordering::Relaxed);
        crew.changed.notify_one();
    }

    /// Watches the leader until it is in one request for long, and takes the lead.
    fn watch(&self) {
        let crew = &*self.crew;
        let Some(desk) = crew.desks.get(crew.leader.load(Ordering::Relaxed)) else {
            return;
        };
        let mut seen = (0, false, Instant::now());
        loop {
            let mut doing = desk.locked();
            let now = (doing.turn, doing.busy);
            let same = now == (seen.0, seen.1);
            if !same {
                seen = (now.0, now.1, Instant::now());
            } else if !doing.busy {
                // It begins nothing before it has woken us.
                doing.watcher = Some(thread::current());
                drop(doing);
                thread::park();
                continue;
            } else if seen.2.elapsed() >= LONG {
                doing.deposed = true;
                crew.stalled.begin(doing.domain.unwrap_or(Domain::None));
                crew.leader.store(self.number, Ordering::Relaxed);
                return;
            }
            drop(doing);
            thread::park_timeout(LOOK);
        }
    }

    fn lead(&mut self) -> io::Result<Left> {
        let crew = Arc::clone(&self.crew);
        // Whoever led before may have taken what was kicked.
        crew.back_end.kick_again();
        loop {
            let ready = wait(&crew)?;
            if ready.told {
                self.begin(Domain::None, None);
                let outcome = crew.change();
                let deposed = self.end().deposed;
                if !outcome? {
                    return Ok(Left::Over);
                }
                if deposed {
                    return Ok(Left::Deposed);
                }
            }
            if ready.asked && crew.back_end.hear()? == Front::Gone {
                return Ok(Left::Over);
            }
            for number in ready.kicked {
                if let Some(left) = self.work(number)? {
                    return Ok(left);
                }
            }
        }
    }

    /// Does the requests in a queue that was kicked.
    fn work(&mut self, number: usize) -> io::Result<Option<Left>> {
        let crew = Arc::clone(&self.crew);
        crew.back_end.begin(number)?;
        for _ in 0..BUDGET {
            let job = match Arc::get_mut(&mut self.job) {
                Some(job) => job,
                // Somebody is still answering the last one.
                None => {
                    self.job = Arc::default();
                    continue;
                }
            };
            if !crew.back_end.pop(number, job)? {
                return Ok(None);
            }
            if let Some(left) = self.take()? {
                return Ok(Some(left));
            }
        }
        crew.back_end.kick_again();
        Ok(None)
    }

    /// Does the request that was taken, or has it wait.
    fn take(&mut self) -> io::Result<Option<Left>> {
        let Some(asked) = self.files.look(&self.job.chain.readable) else {
            self.crew.back_end.push(&self.job, 0)?;
            return Ok(None);
        };
        if self.crew.stalled.any() && self.put_off(&asked)? {
            return Ok(None);
        }
        if asked.remote && self.crew.alone.load(Ordering::Relaxed) {
            self.crew.refuse(&self.job, asked.unique, Errno::EIO)?;
            return Ok(None);
        }
        if !self.perform(asked)? {
            return Ok(None);
        }
        self.catch_up(asked.domain)?;
        Ok(Some(Left::Deposed))
    }

    /// Whether a request is dealt with that is for a filesystem that hangs.
    fn put_off(&mut self, asked: &Asked) -> io::Result<bool> {
        let crew = &*self.crew;
        if let Some(Opcode::Release | Opcode::Releasedir) = asked.opcode {
            // Who closes does not wait for it.
            let is_stalled = crew
                .stalled
                .close(asked.domain, || self.files.release_later());
            if is_stalled {
                let length = self.files.answer_empty(&self.job.chain.writable);
                crew.back_end.push(&self.job, length)?;
            }
            return Ok(is_stalled);
        }
        if asked.abandoned {
            crew.refuse(&self.job, asked.unique, Errno::EIO)?;
            return Ok(true);
        }
        match crew.stalled.put(&mut self.job, *asked) {
            Put::Waits => Ok(true),
            Put::Full if asked.remote => {
                crew.refuse(&self.job, asked.unique, Errno::EIO)?;
                Ok(true)
            }
            // A slow disk is no reason for an error. One thread more waits for it.
            Put::Full | Put::Free => Ok(false),
        }
    }

    /// Does the request that was read, and answers it. Whether another thread leads now.
    fn perform(&mut self, asked: Asked) -> io::Result<bool> {
        let is_release = matches!(asked.opcode, Some(Opcode::Release | Opcode::Releasedir));
        if asked.abandoned && !is_release {
            self.crew.refuse(&self.job, asked.unique, Errno::EIO)?;
            return Ok(false);
        }
        let job = Arc::clone(&self.job);
        self.begin(asked.domain, Some(Begun { job, asked }));
        let chain = &self.job.chain;
        let outcome = self.files.execute(&chain.readable, &chain.writable);
        let ended = self.end();
        if ended.unanswered {
            let length = self.files.answer(outcome, &self.job.chain.writable);
            self.crew.back_end.push(&self.job, length)?;
        }
        Ok(ended.deposed)
    }

    /// Does what has waited for a filesystem.
    fn catch_up(&mut self, domain: Domain) -> io::Result<()> {
        loop {
            match self.crew.stalled.next(domain) {
                Next::Nothing => return Ok(()),
                Next::Close(files) => drop(files),
                Next::Request(waiting) => {
                    self.job = waiting.job;
                    match self.files.look(&self.job.chain.readable) {
                        // It is not the leader who does this.
                        Some(asked) => drop(self.perform(asked)?),
                        None => self.crew.back_end.push(&self.job, 0)?,
                    }
                }
            }
        }
    }
}

/// What there is to be done.
struct Ready {
    told: bool,
    asked: bool,
    kicked: Vec<usize>,
}

/// Waits until there is something to be done.
fn wait(crew: &Crew) -> io::Result<Ready> {
    let kicks = crew.back_end.kicks();
    let mut polled = vec![
        PollFd::new(crew.changes.as_fd(), PollFlags::POLLIN),
        PollFd::new(crew.back_end.as_fd(), PollFlags::POLLIN),
    ];
    polled.extend(
        kicks
            .iter()
            .map(|(_, kick)| PollFd::new(*kick, PollFlags::POLLIN)),
    );
    match poll(&mut polled, PollTimeout::NONE) {
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
