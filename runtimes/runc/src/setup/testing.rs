//! For tests of steps that change the process which takes them.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use trefoil_os::process::exit_now;

/// Runs `steps` in a process of its own, and panics with its words if they panic.
pub(crate) fn in_child(steps: impl FnOnce()) {
    use std::io::Write;

    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the C library makes the allocator usable in a forked child, and the child uses
    // nothing else that another thread of this process may have locked.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(reader);
            std::panic::set_hook(Box::new(move |info| {
                let _ = (&writer).write_all(info.to_string().as_bytes());
                exit_now(1)
            }));
            steps();
            exit_now(0)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let words = std::io::read_to_string(reader).unwrap();
            let status = waitpid(child, None).unwrap();
            assert!(
                matches!(status, WaitStatus::Exited(_, 0)),
                "{status:?}: {words}"
            );
        }
    }
}
