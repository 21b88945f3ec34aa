//! A child process that takes a step and then stands still, so that what it has become can be opened.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, read, write};
use trefoil_os::process::exit_now;

/// Has a child take `step`, lets `look` at it and ends it. `step` may only make system calls, allocating
/// nothing and taking no lock: the child is a copy of a process that may have threads.
///
/// # Errors
/// If the step fails, or looking.
pub(crate) fn held<T>(
    step: impl FnOnce() -> nix::Result<()>,
    look: impl FnOnce(Pid) -> io::Result<T>,
) -> io::Result<T> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: the child ends in `_exit`, and till then only makes system calls that may be made
    // in the copy of a process with threads; it allocates nothing and takes no lock.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            let errno = match step() {
                Ok(()) => 0,
                Err(errno) => errno as i32,
            };
            let _ = write(&theirs, &errno.to_ne_bytes());
            // Until the parent is done, or has died.
            let _ = read(&theirs, &mut [0]);
            exit_now(0)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let seen = taken(&ours).and_then(|()| look(child));
            // Said, and not only meant by closing: another process that was forked meanwhile has
            // our end, too, and may itself wait for one that the child has.
            let _ = write(&ours, &[0]);
            drop(ours);
            while waitpid(child, None) == Err(Errno::EINTR) {}
            seen
        }
    }
}

/// Waits until the child has taken its step.
fn taken(mut child_says: &UnixStream) -> io::Result<()> {
    let mut errno = [0; size_of::<i32>()];
    child_says.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
