//! Who of the threads leads, and what each one does.
//!
//! One that doesn't lead watches the leader, and the rest wait. When the leader is in one request for long,
//! the watcher takes the lead, the filesystem counts as one that hangs, and another thread watches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use trefoil_os::lock;

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
pub struct Leadership {
    /// Who leads: at first the one with number 0.
    leader: AtomicUsize,
    /// Nobody could take the lead.
    alone: AtomicBool,
    slots: [ThreadSlot; THREADS],
    standby: Mutex<Standby>,
    changed: Condvar,
}

/// Those that don't work.
#[derive(Default)]
struct Standby {
    waiting: usize,
    /// One of them watches.
    watched: bool,
}

/// What one thread does.
#[derive(Default)]
struct ThreadSlot(Mutex<ThreadState>);

#[derive(Default)]
struct ThreadState {
    /// Counts what it has begun.
    turn: u64,
    busy: bool,
    domain: Option<Domain>,
    /// The request, until it is answered.
    request: Option<InFlight>,
    /// Another one leads now.
    replaced: bool,
    /// Who is to be woken when it begins something.
    watcher: Option<Thread>,
}

impl ThreadSlot {
    fn locked(&self) -> MutexGuard<'_, ThreadState> {
        lock(&self.0)
    }
}

/// A request that is being done.
pub struct InFlight {
    /// The request.
    pub job: Arc<Job>,
    /// What it is about.
    pub asked: Asked,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Completion {
    /// Nobody has answered it meanwhile.
    pub unanswered: bool,
    /// Another thread leads now.
    pub replaced: bool,
}

impl Leadership {
    fn standby(&self) -> MutexGuard<'_, Standby> {
        lock(&self.standby)
    }

    /// Whether nobody could take the lead.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// A thread begins something that may take long.
    pub fn begin(&self, number: usize, domain: Domain, request: Option<InFlight>) {
        let Some(slot) = self.slots.get(number) else {
            return;
        };
        let mut state = slot.locked();
        state.turn = state.turn.wrapping_add(1);
        state.busy = true;
        state.domain = Some(domain);
        state.request = request;
        let watcher = state.watcher.take();
        drop(state);
        if let Some(watcher) = watcher {
            watcher.unpark();
        }
    }

    /// It has ended.
    pub fn end(&self, number: usize) -> Completion {
        let Some(slot) = self.slots.get(number) else {
            return Completion::default();
        };
        let mut state = slot.locked();
        state.busy = false;
        Completion {
            unanswered: state.request.take().is_some(),
            replaced: std::mem::take(&mut state.replaced),
        }
    }

    /// Takes the requests that are being done and that these words are true of: whoever does them does not
    /// answer them any more.
    pub fn take(&self, which: impl Fn(&Asked) -> bool) -> Vec<InFlight> {
        let is_it = |begun: &mut InFlight| which(&begun.asked);
        let slots = self.slots.iter();
        slots
            .filter_map(|slot| slot.locked().request.take_if(is_it))
            .collect()
    }

    /// Waits until this thread leads.
    pub fn stand_by(&self, number: usize, stalled: &Stalled) {
        let mut standby = self.standby();
        standby.waiting += 1;
        self.alone.store(false, Ordering::Relaxed);
        while standby.watched {
            let woken = self.changed.wait(standby);
            standby = woken.unwrap_or_else(PoisonError::into_inner);
        }
        standby.watched = true;
        drop(standby);
        self.watch(number, stalled);
        let mut standby = self.standby();
        standby.watched = false;
        standby.waiting -= 1;
        self.alone.store(standby.waiting == 0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Watches the leader until it is in one request for long, and takes the lead.
    fn watch(&self, number: usize, stalled: &Stalled) {
        let Some(slot) = self.slots.get(self.leader.load(Ordering::Relaxed)) else {
            return;
        };
        let mut seen = (0, false);
        let mut since = Instant::now();
        loop {
            let mut state = slot.locked();
            let now = (state.turn, state.busy);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if !state.busy {
                // It begins nothing before it has woken us.
                state.watcher = Some(thread::current());
                drop(state);
                thread::park();
                continue;
            } else if since.elapsed() >= LONG {
                state.replaced = true;
                stalled.begin(state.domain.unwrap_or(Domain::None));
                self.leader.store(number, Ordering::Relaxed);
                return;
            }
            drop(state);
            thread::park_timeout(LOOK);
        }
    }
}
