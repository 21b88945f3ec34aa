//! The server's process: it enters its jail, and then does what the guest and its parent ask for, on
//! one thread, a request at a time. It ends when either is gone.

mod back_end;
pub mod capabilities;
mod changes;
pub mod filter;
mod jail;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use trefoil_vmm::control::{Control, Failure, Message};
use trefoil_vmm::exit::Exit;

use crate::fuse::Outcome;
use crate::message::Launch;
use crate::passthrough::Passthrough;
use back_end::{BackEnd, Front};
use changes::Changes;

/// See [`crate::serve`].
///
/// # Safety
///
/// As there.
pub unsafe fn serve() -> ExitCode {
    // SAFETY: our contract is the callee's.
    let control = match unsafe { Control::take() } {
        Ok(control) => control,
        Err(why) => {
            eprintln!("trefoil-files: {why}");
            return ExitCode::FAILURE;
        }
    };
    let exit = match control.launch::<Launch>() {
        Ok((launch, descriptors)) => match run(&launch, descriptors, &control) {
            Ok(()) => Exit::PoweredOff,
            Err(why) => internal(why),
        },
        Err(Failure::Gone) => Exit::Killed,
        Err(why) => internal(format!("begin: {why}")),
    };
    if let Exit::Internal { .. } = exit {
        eprintln!("trefoil-files: {exit}");
    }
    ExitCode::from(u8::try_from(control.end(exit)).unwrap_or(1))
}

fn internal(why: String) -> Exit {
    Exit::Internal {
        part: "file server".into(),
        doing: "serve".into(),
        why,
    }
}

/// Serves until the VMM or the parent is gone.
fn run(launch: &Launch, descriptors: Vec<OwnedFd>, control: &Control) -> Result<(), String> {
    let [vmm, parent] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|given| format!("{} descriptors were handed over, not 2", given.len()))?;
    let most = jail::enter(launch).map_err(|why| why.to_string())?;
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|why| format!("open the root: {why}"))?;
    let files =
        Passthrough::new(root, most as usize).map_err(|why| format!("look at the root: {why}"))?;
    let mut back_end = BackEnd::new(UnixStream::from(vmm), files);
    let changes = Changes::new(parent);
    filter::install().map_err(|why| format!("install the system call filter: {why}"))?;
    control.send(&Message::Running);
    turn(&mut back_end, &changes).map_err(|why| why.to_string())
}

fn turn(back_end: &mut BackEnd, changes: &Changes) -> std::io::Result<()> {
    loop {
        let (told, asked, kicked) = {
            let kicks = back_end.kicks();
            let mut polled = vec![
                PollFd::new(changes.as_fd(), PollFlags::POLLIN),
                PollFd::new(back_end.as_fd(), PollFlags::POLLIN),
            ];
            polled.extend(
                kicks
                    .iter()
                    .map(|(_, kick)| PollFd::new(*kick, PollFlags::POLLIN)),
            );
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(why) => return Err(why.into()),
            }
            let mut ready = polled.iter().map(|polled| polled.any().unwrap_or(true));
            let (told, asked) = (ready.next(), ready.next());
            let kicked: Vec<usize> = kicks
                .iter()
                .zip(ready)
                .filter(|(_, ready)| *ready)
                .map(|((number, _), _)| *number)
                .collect();
            (told == Some(true), asked == Some(true), kicked)
        };
        if told && !changes.make(back_end.files())? {
            return Ok(());
        }
        if asked && back_end.hear()? == Front::Gone {
            return Ok(());
        }
        for number in kicked {
            back_end.work(number)?;
        }
    }
}

/// Has the kernel end this process with its parent: to be said again after each change of ids.
pub fn end_with_parent() -> Outcome<()> {
    // SAFETY: the call takes numbers.
    let outcome = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
    Errno::result(outcome).map(drop)
}
