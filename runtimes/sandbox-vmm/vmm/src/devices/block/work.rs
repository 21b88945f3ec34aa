//! All requests under way, and a turn's worth of work on them.
//!
//! A turn takes what has come back, gives requests that have further steps their next one, takes new
//! requests from the queue, hands all their steps over together, and interrupts the driver once. It
//! ends early when it has moved so many bytes or taken so long that others should have theirs.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::disk::{Disk, MOST_BYTES};
use super::options::{Engine, Error, QUEUE_SIZE};
use super::request::{Answer, Next, Request};
use super::ring::Ring;
use super::step::Step;
use crate::devices::Failure;
use crate::devices::Queue;
use crate::metrics::DeviceMetrics;
use trefoil_virtio::Broken;
use trefoil_virtio::Ram;

/// How many bytes are asked for in one turn; cached ones are copied in it.
const TURN_BYTES: usize = 4 * MOST_BYTES;
/// How long a turn waits for a disk that has no ring. What was begun is finished all the same.
const TURN_TIME: Duration = Duration::from_millis(2);
/// What the smallest step counts as, in bytes.
const LEAST_COST: usize = 4 << 10;
/// What a step without data counts as.
const OTHER_COST: usize = 64 << 10;
/// How long a reset waits for what is under way.
const RESET_TIME: Duration = Duration::from_secs(30);

/// The requests and what does them.
pub struct Work {
    disk: Disk,
    ring: Option<Ring>,
    /// Why there is no ring where one was tried.
    no_ring: Option<std::io::Error>,
    /// Grows to as many as were ever under way together, at most the queue's size.
    requests: Vec<Request>,
    /// Those of the requests that are not in use; the one used last is taken first, as its memory is
    /// warm.
    free: Vec<u16>,
    /// Those that have a step to be done and are not in the ring.
    waiting: VecDeque<u16>,
    /// What the requests' addresses are of.
    ram: Option<Arc<Ram>>,
}

/// What is left of a turn.
struct Turn<'a> {
    queue: &'a mut Queue,
    metrics: &'a DeviceMetrics,
    bytes: usize,
    requests: u16,
    end: Instant,
    answered: bool,
}

impl Turn<'_> {
    fn is_over(&self) -> bool {
        self.bytes == 0 || self.requests == 0
    }

    fn spend(&mut self, step: &Step) {
        self.bytes = self.bytes.saturating_sub(step.cost());
    }
}

impl Step {
    fn cost(&self) -> usize {
        match self {
            Self::Read { memory, .. } | Self::Write { memory, .. } => memory.len().max(LEAST_COST),
            Self::Flush | Self::Allocate { .. } | Self::Discard { .. } => OTHER_COST,
        }
    }
}

impl Work {
    /// Prepares to do requests.
    pub fn new(disk: Disk, engine: Engine) -> Result<Self, Error> {
        let (ring, no_ring) = match engine {
            Engine::Plain => (None, None),
            Engine::Ring | Engine::Automatic => {
                match (Ring::new(disk.files(), QUEUE_SIZE.into()), engine) {
                    (Ok(ring), _) => (Some(ring), None),
                    (Err(why), Engine::Ring) => return Err(Error::Ring(why)),
                    (Err(why), _) => (None, Some(why)),
                }
            }
        };
        let size = usize::from(QUEUE_SIZE);
        Ok(Self {
            disk,
            ring,
            no_ring,
            requests: Vec::with_capacity(size),
            free: Vec::with_capacity(size),
            waiting: VecDeque::with_capacity(size),
            ram: None,
        })
    }

    /// What is in use, and why not the ring.
    pub fn engine(&self) -> (Engine, Option<&std::io::Error>) {
        match self.ring {
            Some(_) => (Engine::Ring, None),
            None => (Engine::Plain, self.no_ring.as_ref()),
        }
    }

    /// What is readable when something has come back.
    pub fn ring(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(Ring::fd)
    }

    /// A driver is ready. Its requests' memory is the guest's.
    pub fn begin(&mut self, write_through: bool, ram: Arc<Ram>) -> Result<(), Failure> {
        if !self.settle(Duration::ZERO) {
            // The driver thinks that it has its memory back, and the kernel still writes there.
            let failure = Failure::host("wait for what the disk did before its reset");
            return Err(failure(Errno::ETIMEDOUT));
        }
        self.disk.write_through = write_through;
        self.ram = Some(ram);
        Ok(())
    }

    /// How many requests were not answered yet.
    pub fn open(&self) -> usize {
        self.requests.len().saturating_sub(self.free.len())
    }

    /// Waits for what is under way, and forgets all requests.
    pub fn forget(&mut self) {
        self.settle(RESET_TIME);
    }

    /// Waits for what is under way, and forgets all requests. `false` if it took too long.
    fn settle(&mut self, limit: Duration) -> bool {
        if let Some(ring) = &mut self.ring
            && !ring.wait(limit)
        {
            return false;
        }
        self.waiting.clear();
        self.free.clear();
        self.requests.clear();
        self.ram = None;
        true
    }

    /// Makes all that was written durable.
    pub fn flush(&self) -> std::io::Result<()> {
        if self.under_way() > 0 {
            return Err(Errno::ETIMEDOUT.into());
        }
        if !self.disk.read_only() {
            self.disk.perform(&Step::Flush)?;
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.ring.as_ref().map_or(0, Ring::under_way)
    }

    /// Works for a while.
    pub fn turn(&mut self, queue: &mut Queue, metrics: &DeviceMetrics) -> Result<(), Failure> {
        queue.hush()?;
        let mut turn = Turn {
            queue,
            metrics,
            bytes: TURN_BYTES,
            requests: QUEUE_SIZE,
            end: Instant::now() + TURN_TIME,
            answered: false,
        };
        loop {
            self.take_back(&mut turn)?;
            if self.hand_out(&mut turn)? {
                continue;
            }
            if std::mem::take(&mut turn.answered) {
                turn.queue.signal()?;
            }
            let stuck = self.ring.as_mut().is_some_and(Ring::has_unsubmitted);
            if stuck || turn.is_over() {
                turn.queue.kick_again();
                return Ok(());
            }
            // With no room for another request, what comes back will call again.
            if self.is_full() || !turn.queue.listen()? {
                return Ok(());
            }
            turn.queue.hush()?;
            // A driver that changes its mind about what is there gets no more of the turn by it.
            turn.requests = turn.requests.saturating_sub(1);
        }
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.requests.len() == usize::from(QUEUE_SIZE)
    }

    /// Takes what has come back.
    fn take_back(&mut self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        while let Some((number, outcome)) = self.ring.as_mut().and_then(Ring::next) {
            let Some(request) = self.requests.get_mut(usize::from(number)) else {
                continue;
            };
            match outcome {
                // The kernel had no thread or no memory for it, and we have a way without.
                Err(Errno::EAGAIN | Errno::ECANCELED | Errno::EINTR | Errno::ENOMEM) => {
                    request.plainly = true
                }
                outcome => request.completed(&mut self.disk, outcome),
            }
            match request.next(&self.disk)? {
                Next::Answer(answer) => self.answer(number, answer, turn)?,
                Next::Do(_) => self.waiting.push_back(number),
            }
        }
        Ok(())
    }

    /// Gives requests their next step. Whether something was handed to the kernel, all of which may
    /// have been done at once.
    fn hand_out(&mut self, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        let before = self.under_way();
        while !turn.is_over() {
            let number = match self.waiting.pop_front() {
                Some(number) => number,
                None => match self.take_new(turn)? {
                    Some(number) => number,
                    None => break,
                },
            };
            if !self.advance(number, turn)? {
                self.waiting.push_front(number);
                break;
            }
        }
        let some = self.under_way() > before;
        if let Some(ring) = &mut self.ring
            && (some || ring.has_unsubmitted())
        {
            ring.submit()
                .map_err(Failure::host("hand the disk's requests to the kernel"))?;
        }
        Ok(some)
    }

    /// Takes a new request out of the queue, if there is one and room for it.
    fn take_new(&mut self, turn: &mut Turn<'_>) -> Result<Option<u16>, Failure> {
        let number = match self.free.last() {
            Some(number) => *number,
            None if self.is_full() => return Ok(None),
            None => {
                let number = u16::try_from(self.requests.len()).unwrap_or(u16::MAX);
                self.requests.push(Request::new());
                self.free.push(number);
                number
            }
        };
        let Some(request) = self.requests.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        if !turn.queue.pop(&mut request.chain)? {
            return Ok(None);
        }
        request.begin(&self.disk)?;
        self.free.pop();
        turn.requests -= 1;
        turn.metrics.requests.add(1);
        turn.metrics.open.add(1);
        Ok(Some(number))
    }

    /// Does a request's steps, or hands the next one over. `false` if it has to wait for its turn.
    fn advance(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        loop {
            let Some(request) = self.requests.get_mut(usize::from(number)) else {
                return Ok(true);
            };
            let step = match request.next(&self.disk)? {
                Next::Do(step) => step,
                Next::Answer(answer) => {
                    self.answer(number, answer, turn)?;
                    return Ok(true);
                }
            };
            if turn.is_over() {
                return Ok(false);
            }
            turn.spend(&step);
            match &mut self.ring {
                Some(ring) if step.is_for_the_ring() && !request.plainly => {
                    // SAFETY: the memory is the guest's, which we keep until all has come back (see
                    // `settle` and `drop`), or static. The pieces are the chain's, which nobody
                    // changes before the step has come back.
                    return Ok(unsafe { ring.prepare(&step, number) });
                }
                _ => {}
            }
            let outcome = self.disk.perform(&step);
            request.completed(&mut self.disk, outcome);
            request.plainly = false;
            if Instant::now() >= turn.end {
                turn.bytes = 0;
            }
        }
    }

    fn answer(&mut self, number: u16, answer: Answer, turn: &mut Turn<'_>) -> Result<(), Broken> {
        let Some(request) = self.requests.get_mut(usize::from(number)) else {
            return Ok(());
        };
        self.free.push(number);
        turn.metrics.open.take(1);
        let written = request.answer(answer)?;
        turn.queue.push(request.chain.head, written)?;
        turn.answered = true;
        if answer != Answer::Done {
            turn.metrics.failures.add(1);
        }
        turn.metrics.bytes_in.add(request.read as u64);
        turn.metrics.bytes_out.add(request.written as u64);
        turn.metrics.latency.count(request.began.elapsed());
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.settle(RESET_TIME) {
            // Memory that the kernel may still write to is never given back.
            std::mem::forget(self.ram.take());
        }
    }
}
