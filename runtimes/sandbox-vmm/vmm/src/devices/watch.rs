//! Where a device has its descriptors watched, and what it is told of them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::failure::Failure;

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
pub(super) const KICKS: u32 = 1 << 31;
/// The owner of what is not a device's.
pub(super) const NO_DEVICE: u32 = u32::MAX;

/// Where one device's descriptors are watched. Level-triggered: what stays ready is told again.
#[derive(Clone, Debug)]
pub struct Watch {
    pub(super) epoll: Arc<Epoll>,
    pub(super) owner: u32,
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
