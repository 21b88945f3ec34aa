//! The one loop that calls devices: it sleeps until a queue is kicked or a device's descriptor is
//! ready, and gives each a turn.
//!
//! It never waits for one device while others have work: a virtual CPU that resets a device holds it
//! for as long as the disk takes to end what is under way.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, TryLockError};

use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Failure;
use super::transport::Transport;

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Reading will not block.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The other side has gone, or there is an error to be read. One that only sends no more is
    /// readable: reading finds the end.
    pub hung_up: bool,
}

/// What is to be told of a descriptor. With neither, a descriptor whose other side has gone is told
/// of again and again all the same: take it off with [`Watch::remove`] instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// When it can be read.
    pub readable: bool,
    /// When it can be written.
    pub writable: bool,
}

impl Interest {
    /// Reading only.
    pub const READABLE: Self = Self {
        readable: true,
        writable: false,
    };

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.readable);
        flags.set(EpollFlags::EPOLLOUT, self.writable);
        flags
    }
}

/// Tokens from here on are kicks of queues.
const KICKS: u32 = 1 << 31;
/// The owner of what is not a device's.
const NO_DEVICE: u32 = u32::MAX;

/// Where one device's descriptors are watched. Level-triggered: what stays ready is told again.
#[derive(Clone, Debug)]
pub struct Watch {
    epoll: Arc<Epoll>,
    owner: u32,
}

impl Watch {
    fn event(&self, token: u32, interest: Interest) -> EpollEvent {
        EpollEvent::new(
            interest.flags(),
            u64::from(self.owner) << 32 | u64::from(token),
        )
    }

    /// Begins to watch; `token` is below 2³¹ and is what [`super::Device::ready`] gets.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> Result<(), Failure> {
        self.epoll
            .add(fd, self.event(token, interest))
            .map_err(Failure::host("watch a descriptor"))
    }

    /// Changes what is to be told.
    pub fn change(
        &self,
        fd: BorrowedFd<'_>,
        token: u32,
        interest: Interest,
    ) -> Result<(), Failure> {
        self.epoll
            .modify(fd, &mut self.event(token, interest))
            .map_err(Failure::host("watch a descriptor"))
    }

    /// Stops watching. A descriptor that is closed everywhere is forgotten without this.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    /// A device's kicks.
    pub(super) fn add_kick(&self, fd: BorrowedFd<'_>, queue: u32) -> Result<(), Failure> {
        self.add(fd, KICKS | queue, Interest::READABLE)
    }
}

/// The loop.
pub struct Events {
    epoll: Arc<Epoll>,
}

/// How long the loop sleeps, in milliseconds, where all that is ready is a device that is held: it
/// would be told of that again and again.
const HELD: u8 = 1;

/// What [`Events::turn`] leaves to its caller: which of the caller's own tokens are ready.
pub type Own = Vec<u32>;

impl Events {
    /// A loop that watches nothing yet.
    pub fn new() -> nix::Result<Self> {
        Ok(Self {
            epoll: Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
        })
    }

    /// Where the device with this number has its descriptors watched.
    pub fn watch_of_device(&self, number: usize) -> Watch {
        Watch {
            epoll: Arc::clone(&self.epoll),
            owner: u32::try_from(number).unwrap_or(NO_DEVICE),
        }
    }

    /// Watches a descriptor that is no device's.
    pub fn add_own(&self, fd: impl AsFd, token: u32) -> Result<(), Failure> {
        let watch = Watch {
            epoll: Arc::clone(&self.epoll),
            owner: NO_DEVICE,
        };
        watch.add(fd.as_fd(), token, Interest::READABLE)
    }

    /// Sleeps until something is ready, or the time is over, and calls the devices concerned, once
    /// each, but for those that a virtual CPU holds, which the next turn finds ready still. An error names the device whose host side failed.
    pub fn turn(
        &self,
        devices: &[Arc<Mutex<Transport>>],
        own: &mut Own,
        limit: EpollTimeout,
    ) -> Result<(), (&'static str, Failure)> {
        own.clear();
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, limit) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(why) => return Err(("events", Failure::host("wait for events")(why))),
        };
        let mut held = 0;
        for event in &events[..count] {
            let [owner, token] = [event.data() >> 32, event.data() & u64::from(u32::MAX)]
                .map(|half| u32::try_from(half).unwrap_or(NO_DEVICE));
            if owner == NO_DEVICE {
                own.push(token);
                continue;
            }
            let Some(device) = devices.get(owner as usize) else {
                continue;
            };
            let mut device = match device.try_lock() {
                Ok(device) => device,
                Err(TryLockError::Poisoned(device)) => device.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    held += 1;
                    continue;
                }
            };
            let flags = event.events();
            let outcome = match token & KICKS {
                0 => device.ready(
                    token,
                    Ready {
                        readable: flags.contains(EpollFlags::EPOLLIN),
                        writable: flags.contains(EpollFlags::EPOLLOUT),
                        hung_up: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
                    },
                ),
                _ => device.kicked((token & !KICKS) as usize),
            };
            outcome.map_err(|why| (device.name(), why))?;
        }
        if held > 0 && held == count {
            // A signal ends it early, and nothing is lost.
            let _ = nix::poll::poll(&mut [], PollTimeout::from(HELD));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::rng::Rng;
    use super::super::testing::Driver;

    #[test]
    fn a_device_that_is_held_keeps_nobody_waiting() {
        let mut driver = Driver::start(Box::new(Rng::new()), 0);
        driver.send(0, &[], &[8]);
        driver.kick(0);
        let (done, ended) = mpsc::channel();
        std::thread::scope(|scope| {
            let device = std::sync::Arc::clone(&driver.device);
            let held = device.lock().expect("device");
            let driver = &driver;
            scope.spawn(move || {
                driver.turn().expect("turn");
                done.send(()).expect("send");
            });
            let outcome = ended.recv_timeout(Duration::from_secs(5));
            drop(held);
            assert_eq!(outcome, Ok(()));
        });
        assert_eq!(driver.used(0), None);
        // What it missed is not lost.
        driver.turn().expect("turn");
        assert_eq!(driver.used(0).map(|(_, written)| written), Some(8));
    }
}
