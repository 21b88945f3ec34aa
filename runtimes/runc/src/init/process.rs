//! What a container's init does until it is its program.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::setsid;
use rustix::process::{chdir, chroot, fchdir};
use trefoil_os::process::exit_now;

use super::plan::Container;
use super::procfs;
use super::words::GO;
use crate::setup::channel::Channel;
use crate::setup::descriptors;
use crate::setup::error::{Doing, Failure};
use crate::setup::hostproc::HostProc;
use crate::setup::line::{self, Line};
use crate::setup::plan::Plan;
use crate::setup::steps::{self, Facts, Kind};

/// A container's init: it waits at the gate, and has hooks.
struct Init<'a>(&'a Container<'a>);

impl Kind for Init<'_> {
    fn hand_to_agent(&self, filter: OwnedFd) -> Result<(), Failure> {
        line::give_filter(filter.as_fd())
    }

    fn wait(&self) -> Result<(), Failure> {
        line::wait_at_gate();
        let own = nix::unistd::getpid();
        self.0
            .run_hooks("startContainer", "created", Some(own.as_raw()))?;
        line::ready();
        Ok(())
    }
}

/// Born into a pid namespace that it is the first in, or that is the host's, before there is a root.
pub(super) fn early(
    plan: &Plan,
    facts: Facts,
    container: &Container<'_>,
    proc: &HostProc,
    channel: &Channel,
    line: &Line,
) -> ! {
    match wait_for_root(plan, proc, channel, line) {
        Ok(()) => steps::run(plan, facts, container.terminal, &Init(container)),
        Err(failure) => steps::fail(&failure),
    }
}

/// Born last: its descriptors are arranged, it is in its root.
pub(super) fn late(plan: &Plan, facts: Facts, container: &Container<'_>) -> ! {
    steps::run(plan, facts, container.terminal, &Init(container))
}

/// Serves the stage until it has a root, and goes there.
fn wait_for_root(
    plan: &Plan,
    proc: &HostProc,
    channel: &Channel,
    line: &Line,
) -> Result<(), Failure> {
    // Out of the helper's process group, whose processes are reaped by whoever waits for them.
    setsid().doing(|| "start a session")?;
    // What a program starts under is told beforehand: here is the last of the host's procfs.
    let labelled = plan.labels.apply(proc);
    descriptors::keep(line.theirs(), channel.as_fd())?;
    labelled?;
    // Changing the root moves who is in the old one, and nobody who is elsewhere.
    chdir("/").doing(|| "leave the root filesystem's directory")?;
    let channel = procfs::kept_channel();
    let given = loop {
        match channel.hear().doing(|| "listen to the stage")? {
            Some(said) if said.word == procfs::BEGUN => procfs::begin_for(&channel)?,
            Some(said) if said.word == GO => break said.descriptors,
            // The stage has failed, and says why.
            _ => exit_now(line::FAILED),
        }
    };
    let Ok([root, stdin, stdout, stderr]) = <[OwnedFd; 4]>::try_from(given) else {
        return Err(Failure::new("the stage gave too few descriptors"));
    };
    fchdir(&root)
        .and_then(|()| chroot("."))
        .doing(|| "enter the container's root directory")?;
    let given = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    descriptors::arrange(given, line::own_end())?;
    // Closed by that already.
    std::mem::forget((root, stdin, stdout, stderr, channel));
    Ok(())
}
