//! The steps through io_uring: the event thread hands them over in batches and never waits for the
//! disk.
//!
//! The ring's own descriptor is watched for completions, and needs nothing read from it to fall
//! silent again. What can be done at once, as reading what is cached, is done as it is handed over.
//!
//! The ring is as confined as the process it is in: it takes reads, writes, flushes and allocations
//! of the files registered with it, and nothing can be registered any more. A kernel that can't
//! confine it so, one before 5.11, is not asked.
//!
//! Steps are handed over by the event thread, and waited for at a reset by a virtual CPU's, so that
//! the ring has no single issuer. What completions there are to be processed by the thread that
//! handed the step over is done whenever that thread is in the kernel (`COOP_TASKRUN`), which it is
//! all the time, and is woken for where it sleeps: its `epoll_wait` ends with `EINTR` then.

use std::fs::File;
use std::io::Error;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;

use super::step::{Memory, Step, rw_flags};

/// How many threads the kernel may make for us, for what it can't do without waiting: for all rings
/// of a thread together. They count as ours: where there is no room for one, the kernel tries for
/// 50 ms before it gives the step up.
pub const MOST_WORKERS: u32 = 8;
/// The file that is written to: where there is one, it is the only one.
const FILE: Fixed = Fixed(0);

/// The ring.
pub struct Ring {
    ring: IoUring,
    /// How many steps have not come back.
    under_way: usize,
}

impl Ring {
    /// Makes a ring for a disk's files with room for so many steps, a power of two.
    pub fn new<'a>(files: impl Iterator<Item = &'a File>, size: u32) -> Result<Self, Error> {
        let ring = match Self::make(size, true) {
            // What is older than 5.19 doesn't know all of it.
            Err(why) if why.raw_os_error() == Some(libc::EINVAL) => Self::make(size, false),
            made => made,
        }?;
        let known = ring.params();
        if !known.is_feature_ext_arg() || !known.is_feature_submit_stable() {
            return Err(Error::other("the kernel's io_uring is too old"));
        }
        let submitter = ring.submitter();
        let files: Vec<_> = files.map(AsRawFd::as_raw_fd).collect();
        submitter.register_files(&files)?;
        // Before 5.15 there is no such limit.
        let _ = submitter.register_iowq_max_workers(&mut [MOST_WORKERS, 0]);
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Read::CODE),
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Write::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, under_way: 0 })
    }

    fn make(size: u32, modern: bool) -> Result<IoUring, Error> {
        let mut builder = IoUring::builder();
        builder.setup_r_disabled();
        if modern {
            builder.setup_coop_taskrun().setup_submit_all();
        }
        builder.build(size)
    }

    /// What is readable when something has come back.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring's, which lives as long as what is returned.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// How many steps have not come back.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether there are steps the kernel did not take yet.
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Prepares a step. `false` if it has to be done elsewhere or later.
    ///
    /// # Safety
    ///
    /// The step's memory stays mapped until the step comes back, and the array of its pieces stays
    /// where and what it is until it is submitted.
    pub unsafe fn prepare(&mut self, step: &Step, number: u16) -> bool {
        let Some(entry) = entry(step) else {
            return false;
        };
        let entry = entry.user_data(number.into());
        // SAFETY: the caller's promise.
        let prepared = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.under_way += usize::from(prepared);
        prepared
    }

    /// Hands what was prepared to the kernel, as far as it will take it now.
    pub fn submit(&mut self) -> Result<(), Errno> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(why) => match Errno::from_raw(why.raw_os_error().unwrap_or(libc::EIO)) {
                Errno::EINTR | Errno::EAGAIN | Errno::EBUSY | Errno::ENOMEM => Ok(()),
                why => Err(why),
            },
        }
    }

    /// The next step that has come back: its number and how many bytes were read or written.
    pub fn next(&mut self) -> Option<(u16, Result<usize, Errno>)> {
        let entry = self.ring.completion().next()?;
        self.under_way = self.under_way.saturating_sub(1);
        let outcome = usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
        Some((
            u16::try_from(entry.user_data()).unwrap_or(u16::MAX),
            outcome,
        ))
    }

    /// Waits until all has come back, but not longer than this, and forgets it. `false` if something
    /// is still under way.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            while self.next().is_some() {}
            let left = end.saturating_duration_since(Instant::now());
            if self.under_way == 0 || left.is_zero() {
                return self.under_way == 0;
            }
            let time = Timespec::new()
                .sec(left.as_secs())
                .nsec(left.subsec_nanos());
            // What goes wrong is seen by what does not come back.
            let _ = self
                .ring
                .submitter()
                .submit_with_args(self.under_way, &SubmitArgs::new().timespec(&time));
        }
    }
}

fn entry(step: &Step) -> Option<Entry> {
    Some(match *step {
        Step::Read { part, at, memory } => {
            let file = Fixed(part.into());
            match memory {
                Memory::One(piece) => {
                    opcode::Read::new(file, piece.iov_base.cast(), length(piece.iov_len))
                        .offset(at)
                        .build()
                }
                Memory::Many { pieces, count, .. } => {
                    opcode::Readv::new(file, pieces, count).offset(at).build()
                }
            }
        }
        Step::Write {
            at,
            memory,
            durable,
        } => match memory {
            Memory::One(piece) => {
                opcode::Write::new(FILE, piece.iov_base.cast(), length(piece.iov_len))
                    .offset(at)
                    .rw_flags(rw_flags(durable))
                    .build()
            }
            Memory::Many { pieces, count, .. } => opcode::Writev::new(FILE, pieces, count)
                .offset(at)
                .rw_flags(rw_flags(durable))
                .build(),
        },
        Step::Flush => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        Step::Allocate { at, length, mode } => opcode::Fallocate::new(FILE, length)
            .offset(at)
            .mode(mode)
            .build(),
        Step::Discard { .. } => return None,
    })
}

/// Less is done then, and the rest in a further step.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_does_nothing_but_what_a_disk_needs() {
        let file = tempfile::tempfile().expect("file");
        let mut ring = match Ring::new(std::iter::once(&file), 4) {
            Ok(ring) => ring,
            Err(why) => return eprintln!("not tested, there is no io_uring here: {why}"),
        };
        let path = c"/";
        let other = io_uring::types::Fd(file.as_raw_fd());
        let entries = [
            opcode::Nop::new().build(),
            opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
            // Not the registered file but any descriptor.
            opcode::Fsync::new(other).build(),
        ];
        for entry in entries {
            // SAFETY: the path lives to the end.
            unsafe { ring.ring.submission().push(&entry) }.expect("push");
            ring.under_way += 1;
            ring.ring.submit_and_wait(1).expect("submit");
            assert_eq!(ring.next(), Some((0, Err(Errno::EACCES))));
        }
        let refused = ring.ring.submitter().register_files(&[file.as_raw_fd()]);
        let refused = refused.expect_err("register").raw_os_error();
        assert_eq!(refused, Some(libc::EACCES));
    }
}
