//! The one loop that calls devices: it sleeps until a queue is kicked or a device's descriptor is
//! ready, and gives each a turn.
//!
//! It never waits for one device while others have work: a virtual CPU that resets a device holds it
//! for as long as the disk takes to end what is under way.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, TryLockError};

use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::failure::Failure;
use super::transport::Transport;
use super::watch::{Interest, KICKS, NO_DEVICE, Ready, Watch};

/// The loop.
pub struct Events {
    epoll: Arc<Epoll>,
}

/// How long the loop sleeps, in milliseconds, where all that is ready is a device that is held: it
/// would be told of that again and again.
const HELD: u8 = 1;

/// What [`Events::turn`] leaves to its caller: which of the caller's own tokens are ready.
pub type Tokens = Vec<u32>;

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
        own: &mut Tokens,
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
