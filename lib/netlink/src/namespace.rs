//! Work in another network namespace: in a thread of its own, so that the caller's stays where it
//! is. A thread's namespace is also the one whose sysctls and taps it sees.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

use trefoil_os::{Context, Result};

use crate::error::unfit;

/// Asks a namespace of which kind it is.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Does work in a namespace that is not the caller's own, and waits for it.
pub fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    if is_own(netns)? {
        return Err(unfit("it is the host's own"));
    }
    let inside = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).context(|| "enter the network namespace")?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, inside)
            .context(|| "start a thread for the network namespace")?;
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether a descriptor is a network namespace's at all.
pub fn is_one(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

fn is_own(netns: BorrowedFd<'_>) -> Result<bool> {
    let doing = || "compare the network namespace with the own";
    let own = File::open("/proc/thread-self/ns/net").context(doing)?;
    let own = fstat(own.as_fd()).context(doing)?;
    let other = fstat(netns).context(doing)?;
    Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
}
