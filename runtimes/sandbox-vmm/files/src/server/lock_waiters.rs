//! Requests that wait for a lock that somebody else has.
//!
//! When a lock is given back in this server they are tried again at once; of what others on the host
//! give back nobody tells, so they are tried again from time to time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use trefoil_os::lock;

use super::stalled::Waiting;
use crate::passthrough::Asked;

/// How many may wait; beyond, ENOLCK.
const MOST: usize = 64;
/// After which time they are tried again: first, and doubled until it is this.
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(100);

struct List {
    waiting: VecDeque<Waiting>,
    /// Interrupted, and not waiting yet: an interruption may overtake its request.
    interrupted: VecDeque<u64>,
    pause: Duration,
    next: Instant,
}

/// All of them.
pub struct LockWaiters {
    count: AtomicUsize,
    list: Mutex<List>,
}

impl Default for LockWaiters {
    fn default() -> Self {
        Self {
            count: AtomicUsize::new(0),
            list: Mutex::new(List {
                waiting: VecDeque::new(),
                interrupted: VecDeque::new(),
                pause: SHORT,
                next: Instant::now(),
            }),
        }
    }
}

impl LockWaiters {
    fn list(&self) -> MutexGuard<'_, List> {
        lock(&self.list)
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Has one more wait; `false` if there are too many.
    pub fn put(&self, waiting: Waiting) -> bool {
        let mut list = self.list();
        if list.waiting.len() >= MOST {
            return false;
        }
        if list.waiting.is_empty() {
            list.pause = SHORT;
            list.next = Instant::now() + SHORT;
        }
        list.waiting.push_back(waiting);
        self.count.store(list.waiting.len(), Ordering::Relaxed);
        true
    }

    /// A request was interrupted that does not wait; here, nothing waits with such a number later.
    pub fn interrupt(&self, unique: u64) {
        let mut list = self.list();
        if list.interrupted.len() >= MOST {
            list.interrupted.pop_front();
        }
        list.interrupted.push_back(unique);
    }

    /// Whether a request was interrupted before it waits.
    pub fn was_interrupted(&self, unique: u64) -> bool {
        let mut list = self.list();
        let before = list.interrupted.len();
        list.interrupted.retain(|number| *number != unique);
        list.interrupted.len() < before
    }

    /// A lock may have been given back.
    pub fn hurry(&self) {
        let mut list = self.list();
        list.pause = SHORT;
        list.next = Instant::now();
    }

    /// How long it is until they are tried again.
    pub fn due(&self) -> Option<Duration> {
        let list = self.list();
        (!list.waiting.is_empty()).then(|| list.next.saturating_duration_since(Instant::now()))
    }

    /// How many are to be tried now, each to be taken by [`LockWaiters::pop`].
    pub fn round(&self) -> usize {
        let mut list = self.list();
        let now = Instant::now();
        if now < list.next {
            return 0;
        }
        list.next = now + list.pause;
        list.pause = LONG.min(list.pause * 2);
        list.waiting.len()
    }

    /// The one that has waited longest.
    pub fn pop(&self) -> Option<Waiting> {
        let mut list = self.list();
        let waiting = list.waiting.pop_front();
        self.count.store(list.waiting.len(), Ordering::Relaxed);
        waiting
    }

    /// Takes those out that these words are true of.
    pub fn take(&self, which: impl Fn(&Asked) -> bool) -> Vec<Waiting> {
        let mut list = self.list();
        let (out, stay) = std::mem::take(&mut list.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|waiting| which(&waiting.asked));
        list.waiting = stay.into();
        self.count.store(list.waiting.len(), Ordering::Relaxed);
        out
    }
}
