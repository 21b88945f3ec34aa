//! The connection to the device's front end: vhost-user, the back end's side, and the guest's queues.
//!
//! The front end may have been taken over by its guest. What it can do here is to have requests made, which
//! its guest can too, and to have its own memory read and written. At what makes no sense the
//! server ends, and the pod's files with it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

use trefoil_os::lock;
use trefoil_virtio::{Broken, Chain, Ram};
use vhost::vhost_user::{BackendReqHandler, Error};
#[cfg(test)]
use vmm_sys_util::eventfd::EventFd;

#[cfg(test)]
use super::vhost_user::Ring;
use super::vhost_user::State;

/// Whether there is somebody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// There is.
    There,
    /// There was.
    Gone,
}

/// A request, taken out of a queue. Kept and filled again, it allocates nothing.
#[derive(Default)]
pub struct Job {
    /// Where it is, and where its answer goes.
    pub chain: Chain,
    ring: usize,
    generation: u64,
    /// Keeps the guest's memory mapped.
    ram: Option<Arc<Ram>>,
}

/// The connection. Only one thread hears it at a time, and listens to what is kicked; all answer.
pub struct BackEnd {
    handler: Mutex<BackendReqHandler<Mutex<State>>>,
    socket: RawFd,
    state: Arc<Mutex<State>>,
}

impl BackEnd {
    /// The connection to a front end.
    pub fn new(socket: UnixStream) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        Self {
            socket: socket.as_raw_fd(),
            handler: Mutex::new(BackendReqHandler::from_stream(socket, Arc::clone(&state))),
            state,
        }
    }

    /// Does what the front end asks for next.
    pub fn hear(&self) -> io::Result<Front> {
        let mut handler = lock(&self.handler);
        match handler.handle_request() {
            Ok(()) => Ok(Front::There),
            Err(Error::Disconnected | Error::SocketBroken(_)) => Ok(Front::Gone),
            Err(why) => Err(io::Error::other(format!("hear the front end: {why}"))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What the guest kicks, with the queues' numbers.
    pub fn kicks(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        let state = self.state();
        let kicks = state.rings.iter().enumerate().filter_map(|(number, ring)| {
            let kick = ring.queue.as_ref()?.kick().as_raw_fd();
            // SAFETY: it is closed by a message of the front end's only, which the thread hears that calls
            // this too: it has let go of it by then.
            Some((number, unsafe { BorrowedFd::borrow_raw(kick) }))
        });
        kicks.collect()
    }

    /// Begins with a queue that was kicked.
    pub fn begin(&self, number: usize) -> io::Result<()> {
        match self.state().queue(number) {
            None => Ok(()),
            Some((queue, _)) => {
                queue.kick().read()?;
                queue.hush().map_err(wrong(number))
            }
        }
    }

    /// Takes the next request out of a queue. If there is none, `false`, and the next one is kicked.
    pub fn pop(&self, number: usize, job: &mut Job) -> io::Result<bool> {
        let mut state = self.state();
        let ram = state.ram.clone();
        let Some((queue, generation)) = state.queue(number) else {
            return Ok(false);
        };
        if !queue.pop(&mut job.chain).map_err(wrong(number))? {
            if queue.listen().map_err(wrong(number))? {
                queue.kick_again();
            }
            return Ok(false);
        }
        (job.ring, job.generation, job.ram) = (number, generation, ram);
        Ok(true)
    }

    /// Hands a request back, with an answer of so many bytes.
    pub fn push(&self, job: &Job, length: u32) -> io::Result<()> {
        match self.state().queue(job.ring) {
            Some((queue, generation)) if generation == job.generation => {
                let head = job.chain.head;
                queue.push(head, length).map_err(wrong(job.ring))?;
                queue.signal().map_err(wrong(job.ring))
            }
            // Nobody waits for it any more.
            _ => Ok(()),
        }
    }

    /// Serves a queue whose rings lie there: descriptors, used, available.
    #[cfg(test)]
    pub fn serve_queue(
        &self,
        size: u16,
        places: [u64; 3],
        ram: Arc<Ram>,
        kick: EventFd,
        call: EventFd,
    ) {
        let mut state = self.state();
        state.ram = Some(ram);
        state.rings[1] = Ring {
            size,
            places: Some(places),
            kick: Some(kick),
            call: Some(call),
            enabled: true,
            ..Ring::default()
        };
        state.begin(1).expect("a queue");
    }

    /// Has all queues looked at again, after others had their turn.
    pub fn kick_again(&self) {
        for ring in &self.state().rings {
            if let Some(queue) = &ring.queue {
                queue.kick_again();
            }
        }
    }
}

fn wrong(number: usize) -> impl Fn(Broken) -> io::Error {
    move |why| io::Error::other(format!("work on queue {number}: {why}"))
}

impl AsFd for BackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handler keeps it open.
        unsafe { BorrowedFd::borrow_raw(self.socket) }
    }
}
