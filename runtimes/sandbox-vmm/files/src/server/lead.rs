//! Who of the threads leads, and what each one does.
//!
//! One that doesn't lead watches the leader, and the rest wait. When the leader is in one request for long,
//! the watcher takes the lead, the filesystem counts as one that hangs, and another thread watches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::back_end::Job;
use super::stalled::Stalled;
use crate::passthrough::{Asked, Domain};

/// How many threads there are: so many filesystems, less two, can hang at a time and hurt only their
/// users.
pub const THREADS: usize = 16;
/// How long the leader may be in one request.
const LONG: Duration = Duration::from_millis(100);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(50);

/// The threads, by their numbers.
#[derive(Default)]
pub struct Lead {
    /// Who leads: at first the one with number 0.
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

impl Desk {
    fn locked(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being done.
pub struct Begun {
    /// The request.
    pub job: Arc<Job>,
    /// What it is about.
    pub asked: Asked,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// Nobody has answered it meanwhile.
    pub unanswered: bool,
    /// Another thread leads now.
    pub deposed: bool,
}

impl Lead {
    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody could take the lead.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// A thread begins something that may take long.
    pub fn begin(&self, number: usize, domain: Domain, request: Option<Begun>) {
        let Some(desk) = self.desks.get(number) else {
            return;
        };
        let mut doing = desk.locked();
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

    /// It has ended.
    pub fn end(&self, number: usize) -> Ended {
        let Some(desk) = self.desks.get(number) else {
            return Ended::default();
        };
        let mut doing = desk.locked();
        doing.busy = false;
        Ended {
            unanswered: doing.request.take().is_some(),
            deposed: std::mem::take(&mut doing.deposed),
        }
    }

    /// Takes the requests that are being done and that these words are true of: whoever does them does not
    /// answer them any more.
    pub fn take(&self, which: impl Fn(&Asked) -> bool) -> Vec<Begun> {
        let is_it = |begun: &mut Begun| which(&begun.asked);
        let desks = self.desks.iter();
        desks
            .filter_map(|desk| desk.locked().request.take_if(is_it))
            .collect()
    }

    /// Waits until this thread leads.
    pub fn stand_by(&self, number: usize, stalled: &Stalled) {
        let mut bench = self.bench();
        bench.waiting += 1;
        self.alone.store(false, Ordering::Relaxed);
        while bench.watched {
            let woken = self.changed.wait(bench);
            bench = woken.unwrap_or_else(PoisonError::into_inner);
        }
        bench.watched = true;
        drop(bench);
        self.watch(number, stalled);
        let mut bench = self.bench();
        bench.watched = false;
        bench.waiting -= 1;
        self.alone.store(bench.waiting == 0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Watches the leader until it is in one request for long, and takes the lead.
    fn watch(&self, number: usize, stalled: &Stalled) {
        let Some(desk) = self.desks.get(self.leader.load(Ordering::Relaxed)) else {
            return;
        };
        let mut seen = (0, false);
        let mut since = Instant::now();
        loop {
            let mut doing = desk.locked();
            let now = (doing.turn, doing.busy);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if !doing.busy {
                // It begins nothing before it has woken us.
                doing.watcher = Some(thread::current());
                drop(doing);
                thread::park();
                continue;
            } else if since.elapsed() >= LONG {
                doing.deposed = true;
                stalled.begin(doing.domain.unwrap_or(Domain::None));
                self.leader.store(number, Ordering::Relaxed);
                return;
            }
            drop(doing);
            thread::park_timeout(LOOK);
        }
    }
}
