//! One number that a process leaves for another to read after its end.
//!
//! A process that is about to be born among a container's processes must not hold a socket to anybody
//! of the host's at that moment: one of them may trace it and use the socket in its name. So whoever
//! creates it has closed its own sockets by then, and tells the new process's number by this memory,
//! which it shares with its maker and children do not inherit.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A page is the least that can be shared.
const SIZE: usize = 4096;

/// The memory.
#[derive(Debug)]
pub(crate) struct SharedPid(NonNull<AtomicI32>);

impl SharedPid {
    /// A new one, which says 0.
    pub(crate) fn new() -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, affects no memory in use.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), SIZE, access, MapFlags::SHARED) }?;
        NonNull::new(page.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    /// Keeps it from the children that this process forks from now on. They must not use it.
    pub(crate) fn keep_from_children(&self) -> Result<(), Errno> {
        // SAFETY: the range is this mapping; children get none there, and use none.
        unsafe { madvise(self.0.as_ptr().cast(), SIZE, Advice::LinuxDontFork) }
    }

    /// Writes the number.
    pub(crate) fn write(&self, number: i32) {
        self.number().store(number, Ordering::Release);
    }

    /// Reads it.
    pub(crate) fn read(&self) -> i32 {
        self.number().load(Ordering::Acquire)
    }

    fn number(&self) -> &AtomicI32 {
        // SAFETY: the page is mapped as long as `self` lives, aligned, zeroed by the kernel, and only
        // ever used as this atomic number.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPid {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};
    use trefoil_os::process::exit_now;

    #[test]
    fn what_a_child_writes_is_read() {
        let board = SharedPid::new().unwrap();
        // SAFETY: the child writes to shared memory and ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                board.write(-7);
                exit_now(0)
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
        assert_eq!(board.read(), -7);
    }

    #[test]
    fn children_forked_later_have_none() {
        let board = SharedPid::new().unwrap();
        board.keep_from_children().unwrap();
        // SAFETY: the child touches one address, dies of it or ends.
        let status = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                board.write(1);
                exit_now(0)
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
        assert!(
            matches!(status, nix::sys::wait::WaitStatus::Signaled(..)),
            "{status:?}"
        );
        assert_eq!(board.read(), 0);
    }
}
