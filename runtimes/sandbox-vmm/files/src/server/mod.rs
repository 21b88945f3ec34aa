//! The server's process: it enters its jail, and then does what the guest and its parent ask for, a
//! request at a time as long as nothing hangs. It ends when either is gone.

mod back_end;
mod changes;
pub mod filter;
mod jail;
mod leadership;
mod lock_waiters;
mod shared;
mod stalled;
#[cfg(test)]
mod trials;
mod vhost_user;
mod worker;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use trefoil_jail::{Control, Failure, control, seccomp};

use crate::exit::{Exit, HungUp};
use crate::message::{Launch, Message};
use crate::passthrough::Files;
use back_end::BackEnd;
use changes::Changes;
use leadership::THREADS;
use shared::Shared;
use worker::Worker;

/// Stack of a thread beside the first.
const STACK: usize = 256 << 10;

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
    let control = Arc::new(control);
    let outcome = match control.launch::<Launch>() {
        Ok((launch, descriptors)) => run(&launch, descriptors, &control),
        Err(control::Failure::Gone) => return ExitCode::from(finish(&control, Exit::Killed)),
        Err(why) => Err(Failure::new("begin", why)),
    };
    ExitCode::from(finish(&control, end_of(outcome)))
}

fn end_of(outcome: Result<(), Failure>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done(HungUp),
        Err(why) => why.into(),
    }
}

/// Says how it ends, and with which code.
fn finish(control: &Control, exit: Exit) -> u8 {
    if let Exit::Failed(_) = exit {
        eprintln!("trefoil-files: {exit}");
    }
    u8::try_from(control.end(exit)).unwrap_or(1)
}

/// Serves until the front end or the parent is gone.
fn run(launch: &Launch, descriptors: Vec<OwnedFd>, control: &Arc<Control>) -> Result<(), Failure> {
    let [front_end, parent] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|given| {
        let why = format!("{} descriptors came, not 2", given.len());
        Failure::new("take what was handed over", why)
    })?;
    let most = jail::enter(launch)?;
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Failure::at("open the root"))?;
    let files = Files::new(root, most as usize).map_err(Failure::at("look at the root"))?;
    files.told_of(launch.flush);
    let back_end = BackEnd::new(UnixStream::from(front_end));
    let shared = Arc::new(Shared::new(back_end, Changes::new(parent), files));
    let worker = Worker::new(Arc::clone(&shared), 0);
    let begin = threads(&shared, control).map_err(Failure::at("make threads"))?;
    let filter = filter::compile()?;
    seccomp::install_in_all_threads(&filter)?;
    begin.wait();
    control.send(&Message::Running);
    worker.run().map_err(Failure::at("serve"))
}

/// Makes all other threads, which wait: there are never more, since the filter lets nobody make one.
fn threads(shared: &Arc<Shared>, control: &Arc<Control>) -> std::io::Result<Arc<Barrier>> {
    // One arena is enough, and to find out how many processors there are is not allowed.
    // SAFETY: the call takes numbers.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let begin = Arc::new(Barrier::new(THREADS));
    let (ready, outcomes) = channel();
    for number in 1..THREADS {
        let (shared, control) = (Arc::clone(shared), Arc::clone(control));
        let (begin, ready) = (Arc::clone(&begin), ready.clone());
        let body = move || {
            // It has a umask of its own.
            let outcome = unshare(CloneFlags::CLONE_FS);
            let worker = outcome.map(|()| Worker::new(shared, number));
            // It fails only where nobody waits any more.
            let _ = ready.send(outcome);
            if let Ok(worker) = worker {
                begin.wait();
                let outcome = worker.run().map_err(Failure::at("serve"));
                // The first thread may hang.
                std::process::exit(finish(&control, end_of(outcome)).into());
            }
        };
        std::thread::Builder::new().stack_size(STACK).spawn(body)?;
    }
    for outcome in outcomes.iter().take(THREADS - 1) {
        outcome?;
    }
    Ok(begin)
}
