//! An end from outside: Ctrl-C, or a signal that asks for it. Steps are in process groups of their own, which
//! no terminal tells of it, so they are ended here.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// The groups of the steps that run.
static RUNNING: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a program that is started be ended by signals as any other.
pub fn unblocked(command: &mut Command) {
    // SAFETY: between fork and exec it makes one system call, and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_unblock()?));
    }
}

/// A step's group, which is ended if the suite is.
pub struct Group(Pid);

impl Group {
    /// Of a step that has been started. It is forgotten when this is dropped, which has to be before its
    /// first process is waited for: then its id may be another's.
    pub fn of(pid: Pid) -> Self {
        running().insert(pid);
        Self(pid)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

/// Has a thread wait for the signals that end the suite. To be called before any other thread is there: they
/// inherit that these signals wait. So do programs that are started, but by [`unblocked`].
pub fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .context("keeping signals for a thread of their own")?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        // Nobody begins another step meanwhile.
        let groups = running();
        for group in groups.iter() {
            // As a terminal would: programs of ours remove what they have made.
            let _ = killpg(*group, Signal::SIGTERM);
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
