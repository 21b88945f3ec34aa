//! What a new process does, in order, to become the container's program.
//!
//! It starts inside the container's namespaces and cgroups, with every privilege of the
//! container's root, and gives up one thing after the other. The order matters; the steps say why
//! they stand where they do. Its descriptors are arranged: nothing of the host is open but the
//! standard streams and the line.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::umask;
use nix::unistd::setsid;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use trefoil_os::process::exit_now;

use super::console;
use super::credentials;
use super::error::{Doing, Failure};
use super::hostproc::HostProc;
use super::line;
use super::lookup::{self, FileId};
use super::passwd;
use super::plan::Plan;
use super::seccomp::Filter;
use super::signals;

/// What only the host's procfs tells, which the process itself never has open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    may_set_groups: bool,
    runtime: Option<FileId>,
}

impl Facts {
    /// To be called in the container's user namespace.
    pub(crate) fn new(proc: &HostProc) -> Self {
        Self {
            may_set_groups: credentials::may_set_groups(proc),
            runtime: proc
                .stat("self/exe")
                .ok()
                .map(|status| lookup::identity(&status)),
        }
    }
}

/// What distinguishes a container's first process.
pub(crate) trait Kind {
    /// Takes the descriptor of a seccomp filter that asks an agent.
    fn hand_to_agent(&self, filter: OwnedFd) -> Result<(), Failure>;

    /// Comes when nothing is left to do but to run the program.
    fn wait(&self) -> Result<(), Failure>;
}

/// A process that is run in a container later: it runs at once.
pub(crate) struct Later;

impl Kind for Later {
    fn hand_to_agent(&self, _: OwnedFd) -> Result<(), Failure> {
        // Such profiles are refused before.
        Ok(())
    }

    fn wait(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Becomes the program, or reports why not and exits. Never returns.
pub(crate) fn run(plan: &Plan, facts: Facts, terminal: bool, kind: &impl Kind) -> ! {
    let failure = match start(plan, facts, terminal, kind) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    fail(&failure)
}

/// Reports why there will be no program, and exits.
pub(crate) fn fail(failure: &Failure) -> ! {
    line::failed(line::own_end(), failure);
    // No destructor or exit handler of the process this one was copied from may run here.
    exit_now(line::FAILED)
}

fn start(
    plan: &Plan,
    facts: Facts,
    terminal: bool,
    kind: &impl Kind,
) -> Result<Infallible, Failure> {
    signals::reset().doing(|| "reset the signals")?;
    match setsid() {
        // An init has a session already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno).doing(|| "start a session"),
    }
    if terminal {
        console::take_control()?;
    }
    umask(plan.umask);
    plan.scheduling.apply()?;
    if plan.no_new_privileges {
        forbid_new_privileges()?;
    }
    let uid = plan.credentials.uid();
    let mut environment = plan.environment.clone();
    environment.set_home_if_missing(|| passwd::home_of(uid));
    plan.limits.apply()?;

    // Without no_new_privileges loading a filter takes CAP_SYS_ADMIN: before the capabilities go.
    // With it, as late as possible, so that the profile need not allow the steps in between; but
    // whoever is to answer for a filter is there only until the container is ready.
    let is_early = |filter: &&Filter| !plan.no_new_privileges || filter.has_listener();
    let early = plan.seccomp.as_ref().filter(is_early);
    let late = plan.seccomp.as_ref().filter(|filter| !is_early(filter));
    load(early, kind)?;
    plan.credentials.assume(facts.may_set_groups)?;
    let path = plan.program.find(&environment, facts.runtime)?;

    line::ready();
    kind.wait()?;
    load(late, kind)?;
    Err(plan.program.become_it(&path, &environment))
}

fn load(filter: Option<&Filter>, kind: &impl Kind) -> Result<(), Failure> {
    match filter.map(Filter::load).transpose()?.flatten() {
        Some(listener) => kind.hand_to_agent(listener),
        None => Ok(()),
    }
}

fn forbid_new_privileges() -> Result<(), Failure> {
    rustix::thread::set_no_new_privs(true).doing(|| "set no_new_privileges")
}

/// Forbids the processes of the container to trace this one or look into its `/proc` directory
/// while it is among them and still has rights of the host.
pub(crate) fn hide() -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "hide from the container's processes")
}
