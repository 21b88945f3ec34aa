//! Filesystems that hang, and the requests that wait for them.
//!
//! One thread is in a call there. All else that is asked of that filesystem waits for this thread to do
//! it, so that a filesystem that hangs takes one thread and not all.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use trefoil_os::lock;

use super::back_end::Job;
use crate::passthrough::{Asked, Domain};

/// How many requests may wait for one filesystem, and for all together. The guest's queue has 512
/// places: who fills it with what hangs would stop all others. Half of what the guest's kernel
/// does at a time (`MOST_BACKGROUND`) is for others, too.
const MOST_EACH: usize = 128;
const MOST: usize = 256;

/// After which time in one call a filesystem is no longer taken for a slow one.
const DEAD: Duration = Duration::from_secs(1);

/// A request that waits.
pub struct Waiting {
    /// The request.
    pub job: Arc<Job>,
    /// What it is about.
    pub asked: Asked,
}

/// What became of a request for a filesystem that hangs.
pub enum Put {
    /// It waits.
    Waits,
    /// As many wait as may.
    Full,
    /// The filesystem doesn't hang.
    Free,
}

struct Place {
    /// When the last call there began, or was found to take long.
    since: Instant,
    /// How many threads are in a call there.
    threads: usize,
    waiting: VecDeque<Waiting>,
    /// What is to be closed there.
    files: Vec<Arc<OwnedFd>>,
}

impl Place {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            threads: 0,
            waiting: VecDeque::new(),
            files: Vec::new(),
        }
    }
}

/// What a thread is to do next where it hung.
pub enum Next {
    /// A request.
    Request(Waiting),
    /// Closing these.
    Close(Vec<Arc<OwnedFd>>),
    /// Nothing: the filesystem does not hang any more.
    Nothing,
}

/// All of them.
#[derive(Default)]
pub struct Stalled {
    /// Whether there is one: this is asked before each request.
    any: AtomicBool,
    places: Mutex<HashMap<Domain, Place>>,
}

impl Stalled {
    fn places(&self) -> MutexGuard<'_, HashMap<Domain, Place>> {
        lock(&self.places)
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Those that had been in one call for a second by then: one that is only slow is none.
    pub fn dead(&self, by: Instant) -> Vec<Domain> {
        let places = self.places();
        let dead = places
            .iter()
            .filter(|(_, place)| by.saturating_duration_since(place.since) >= DEAD);
        dead.map(|(domain, _)| *domain).collect()
    }

    /// A thread is in a call there, for long.
    pub fn begin(&self, domain: Domain) {
        if domain == Domain::None {
            return;
        }
        let mut places = self.places();
        places.entry(domain).or_insert_with(Place::new).threads += 1;
        drop(places);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Has a request wait, and puts another one in its place.
    pub fn put(&self, job: &mut Arc<Job>, asked: Asked) -> Put {
        let mut places = self.places();
        let all: usize = places.values().map(|place| place.waiting.len()).sum();
        let Some(place) = places.get_mut(&asked.domain) else {
            return Put::Free;
        };
        if place.waiting.len() >= MOST_EACH || all >= MOST {
            return Put::Full;
        }
        let job = std::mem::take(job);
        place.waiting.push_back(Waiting { job, asked });
        Put::Waits
    }

    /// Has files closed there, if the filesystem hangs.
    pub fn close(&self, domain: Domain, take: impl FnOnce() -> Vec<Arc<OwnedFd>>) -> bool {
        match self.places().get_mut(&domain) {
            Some(place) => {
                place.files.extend(take());
                true
            }
            None => false,
        }
    }

    /// The call there has returned: what is to be done next. After [`Next::Nothing`] the thread has no
    /// more to do with it.
    pub fn next(&self, domain: Domain) -> Next {
        let mut places = self.places();
        let Some(place) = places.get_mut(&domain) else {
            return Next::Nothing;
        };
        place.since = Instant::now();
        if let Some(waiting) = place.waiting.pop_front() {
            return Next::Request(waiting);
        }
        if !place.files.is_empty() {
            return Next::Close(std::mem::take(&mut place.files));
        }
        place.threads = place.threads.saturating_sub(1);
        if place.threads == 0 {
            places.remove(&domain);
        }
        self.any.store(!places.is_empty(), Ordering::Relaxed);
        Next::Nothing
    }

    /// Takes the requests out that these words are true of.
    pub fn take(&self, which: impl Fn(&Asked) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for place in self.places().values_mut() {
            let (out, stay) = std::mem::take(&mut place.waiting)
                .into_iter()
                .partition::<VecDeque<_>, _>(|waiting| which(&waiting.asked));
            place.waiting = stay;
            taken.extend(out);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(unique: u64, device: u64, tree: u32) -> Asked {
        Asked {
            unique,
            node: 0,
            opcode: None,
            tree,
            domain: Domain::Filesystem(device),
            remote: true,
            early: true,
        }
    }

    fn put(stalled: &Stalled, asked: Asked) -> Put {
        stalled.put(&mut Arc::default(), asked)
    }

    #[test]
    fn requests_wait_in_order_and_only_so_many() {
        let stalled = Stalled::default();
        assert!(matches!(put(&stalled, asked(1, 7, 1)), Put::Free));
        stalled.begin(Domain::Filesystem(7));
        assert!(stalled.any());
        for unique in 0..MOST_EACH as u64 {
            assert!(matches!(put(&stalled, asked(unique, 7, 1)), Put::Waits));
        }
        assert!(matches!(put(&stalled, asked(999, 7, 1)), Put::Full));
        assert!(matches!(put(&stalled, asked(999, 8, 1)), Put::Free));
        // As many of another, and then it is all.
        stalled.begin(Domain::Tree(8));
        stalled.begin(Domain::Filesystem(9));
        for unique in 0..MOST_EACH as u64 {
            assert!(matches!(put(&stalled, asked(unique, 9, 2)), Put::Waits));
        }
        let other = Asked {
            domain: Domain::Tree(8),
            ..asked(1, 0, 8)
        };
        assert!(matches!(put(&stalled, other), Put::Full));
        for unique in 0..MOST_EACH as u64 {
            let Next::Request(next) = stalled.next(Domain::Filesystem(7)) else {
                panic!("{unique} is there");
            };
            assert_eq!(next.asked.unique, unique);
        }
        assert!(matches!(stalled.next(Domain::Filesystem(7)), Next::Nothing));
        assert!(matches!(put(&stalled, asked(1, 7, 1)), Put::Free));
        assert!(stalled.any());
    }

    #[test]
    fn a_filesystem_that_is_only_slow_is_not_dead() {
        let stalled = Stalled::default();
        let domain = Domain::Filesystem(7);
        stalled.begin(domain);
        let now = Instant::now();
        assert_eq!(stalled.dead(now), []);
        assert_eq!(stalled.dead(now + DEAD), [domain]);
        // It gets on with what waits.
        std::thread::sleep(Duration::from_millis(20));
        assert!(matches!(put(&stalled, asked(1, 7, 1)), Put::Waits));
        assert!(matches!(stalled.next(domain), Next::Request(_)));
        assert_eq!(stalled.dead(now + DEAD), []);
        assert_eq!(stalled.dead(Instant::now() + DEAD), [domain]);
    }

    #[test]
    fn a_tree_that_is_given_up_waits_no_more() {
        let stalled = Stalled::default();
        stalled.begin(Domain::Filesystem(7));
        for (unique, tree) in [(1, 1), (2, 2), (3, 1)] {
            assert!(matches!(put(&stalled, asked(unique, 7, tree)), Put::Waits));
        }
        let taken = stalled.take(|asked| asked.tree == 1);
        let taken: Vec<_> = taken.iter().map(|waiting| waiting.asked.unique).collect();
        assert_eq!(taken, [1, 3]);
        assert!(matches!(
            stalled.next(Domain::Filesystem(7)),
            Next::Request(_)
        ));
        let file = std::fs::File::open("/dev/null").expect("open");
        let file = Arc::new(OwnedFd::from(file));
        assert!(stalled.close(Domain::Filesystem(7), || vec![file]));
        assert!(!stalled.close(Domain::Filesystem(8), Vec::new));
        assert!(matches!(
            stalled.next(Domain::Filesystem(7)),
            Next::Close(_)
        ));
        assert!(matches!(stalled.next(Domain::Filesystem(7)), Next::Nothing));
        assert!(!stalled.any());
    }
}
