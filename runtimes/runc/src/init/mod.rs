//! Makes a container's init, which waits at a gate until the container is started.
//!
//! ```text
//!  worker (host)      stage (in the container's namespaces)            init
//!  plan ── cgroup ──▶ mount namespace ─ sources of mounts
//!                     other namespaces ────────────── clone ─────────▶ waits for its root
//!                     root (root/): mounts, devices                      │
//!  prestart,    ◀──── mounted                                            │
//!  createRuntime ───▶ createContainer ─ pivot ─ sysctls ─ hostname      │
//!                     terminal ─ read-only, masked ──── go ────────────▶ setup/steps.rs
//!    gate ◀─────────────────────────────── line ◀──── ready ─────────────┘
//! ```
//!
//! The stage has the host's root until the pivot and is seen by no process of the container
//! (`setup/stage.rs`). Where the pid namespace is another container's, whose processes may trace who
//! comes into it, init is born last, when nothing of the host is left to take.
//!
//! Start reading at [`make`]. What is decided on the host is in [`Plan`]; `stage.rs` is the order of
//! things, `process.rs` what the init does.

mod namespaces;
mod plan;
mod process;
mod procfs;
mod stage;
mod words;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};
use oci_spec::runtime::{LinuxResources, Spec};

use crate::setup::error::{Doing, Failure};
use crate::setup::line::Line;
use crate::setup::netdevices;
use crate::setup::null::Null;
use crate::setup::rdt;
use crate::setup::stage::Stage;
use trefoil_cgroups::Cgroup;

use namespaces::PidNamespace;
pub(crate) use plan::{Container, Plan};
use words::{GO, MOUNTED, TERMINAL};

/// An init at its gate.
#[derive(Debug)]
pub(crate) struct GatedInit {
    /// Its number on the host. It is a child of the caller's parent.
    pub(crate) pid: Pid,
    /// The end of its line that opens the gate: see `setup/line.rs`. When it is closed, init ends.
    pub(crate) gate: OwnedFd,
    /// The runtime's end of its terminal, if it has one.
    pub(crate) master: Option<OwnedFd>,
}

/// What is noted where it outlives this process, before it can be lost.
pub(crate) trait Recorder {
    /// Groups of Intel RDT that were made for the container.
    fn made_rdt(&self, made: rdt::Made) -> Result<(), Failure>;
}

/// Why there is no init.
#[derive(Debug)]
pub(crate) struct InitError {
    /// What went wrong.
    pub(crate) failure: Failure,
    /// A process that came to be, is ending or has ended, and is the caller's parent's to reap.
    pub(crate) pid: Option<Pid>,
}

impl From<Failure> for InitError {
    fn from(failure: Failure) -> Self {
        Self { failure, pid: None }
    }
}

/// Makes the init of a container, in its cgroup, which is there; `directory` as its creation has answered
/// it. The caller is single-threaded, and the host's root.
pub(crate) fn make(
    container: &Container<'_>,
    mut plan: Plan,
    cgroup: &Cgroup,
    directory: Option<OwnedFd>,
    streams: [Option<BorrowedFd<'_>>; 3],
    recorder: &dyn Recorder,
) -> Result<GatedInit, InitError> {
    let agent = plan.agent.take();
    let hosts_null = Null::open(&plan.proc)?;
    let line = Line::new()?;
    let cgroup_owner = plan.cgroup_owner;
    let has_pid_namespace = matches!(plan.namespaces.pid, PidNamespace::New);
    let stage = Stage::begin(directory.as_ref().map(AsFd::as_fd), |actor| {
        let host = stage::HostResources {
            streams,
            null: hosts_null.as_ref(),
            line: &line,
        };
        stage::act(actor, container, plan, &host)
    })?;
    let listener = line.listen();
    let led = place(container, cgroup, &stage, cgroup_owner, directory.is_some())
        .and_then(|()| {
            let made = rdt::apply(container.spec, container.id, stage.pid().as_raw())?;
            recorder.made_rdt(made)
        })
        .and_then(|()| lead(container, &stage, has_pid_namespace));
    let master = match led {
        Ok(master) => master,
        Err(failure) => {
            let pid = stage.created();
            // What the init says of it comes first: the stage only sees that it has gone.
            drop(stage);
            let failure = listener.failure().map_or(failure, Failure::new);
            return Err(InitError { failure, pid });
        }
    };
    let (pid, _) = stage.end()?;
    if let Err(failure) = limit_processes(container, cgroup) {
        return Err(InitError {
            failure,
            pid: Some(pid),
        });
    }
    let take_filter = |filter: OwnedFd| match &agent {
        Some(agent) => {
            let state = container.state("creating", Some(pid.as_raw())).json();
            agent
                .send(filter.as_fd(), pid.as_raw(), &state)
                .map_err(|failure| failure.to_string())
        }
        None => Ok(()),
    };
    match listener.wait_for_gate(take_filter) {
        Ok(gate) => Ok(GatedInit { pid, gate, master }),
        Err(message) => Err(InitError {
            failure: Failure::new(message),
            pid: Some(pid),
        }),
    }
}

/// Puts the stage, and with it all that it will make, into the container's cgroup.
fn place(
    container: &Container<'_>,
    cgroup: &Cgroup,
    stage: &Stage,
    owner: Option<(Uid, Gid)>,
    is_born_there: bool,
) -> Result<(), Failure> {
    let failed = |why: trefoil_cgroups::Error| Failure::new(why.to_string());
    if !is_born_there {
        cgroup.add(stage.pid()).map_err(failed)?;
    }
    let without_processes = resources(container.spec).cloned().map(|mut resources| {
        resources.set_pids(None);
        resources
    });
    let limited = cgroup.limit(without_processes.as_ref());
    limited.map_err(failed)?;
    if let Some((uid, gid)) = owner {
        cgroup.delegate(uid, gid).map_err(failed)?;
    }
    Ok(())
}

/// Limits the processes of a container once it needs no others to be made: one may be all it is to have.
fn limit_processes(container: &Container<'_>, cgroup: &Cgroup) -> Result<(), Failure> {
    let pids = resources(container.spec).and_then(|resources| *resources.pids());
    let Some(pids) = pids else { return Ok(()) };
    let mut resources = LinuxResources::default();
    resources.set_pids(Some(pids));
    let limited = cgroup.update(&resources);
    limited.map_err(|why| Failure::new(why.to_string()))
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref())
}

/// The host's part while the stage is at work. Returns the terminal's master.
fn lead(
    container: &Container<'_>,
    stage: &Stage,
    has_pid_namespace: bool,
) -> Result<Option<OwnedFd>, Failure> {
    stage.say(GO, &[])?;
    let pid: Option<i32> = stage.hear_that(MOUNTED)?.text.parse().ok();
    netdevices::give(container.spec, stage.pid())?;
    container.run_hooks("prestart", "creating", pid)?;
    container.run_hooks("createRuntime", "creating", pid)?;
    let namespace = match container.has_hooks("createContainer") && has_pid_namespace {
        true => Some(pid_namespace_of(stage)?),
        false => None,
    };
    let given: Vec<_> = namespace.iter().map(AsFd::as_fd).collect();
    stage.say(GO, &given)?;
    let master = match container.terminal {
        true => stage.hear_that(TERMINAL)?.descriptors.pop(),
        false => None,
    };
    match stage.hear()? {
        None => Ok(master),
        Some(_) => Err(Failure::new("the stage said what nobody asked for")),
    }
}

/// The pid namespace of the init that the stage has created. The stage itself, once it is in a user
/// namespace, may not look at that process.
fn pid_namespace_of(stage: &Stage) -> Result<OwnedFd, Failure> {
    let doing = || "open the container's pid namespace";
    let pid = stage.created().ok_or(Errno::ESRCH).doing(doing)?;
    let namespace = File::open(format!("/proc/{pid}/ns/pid")).doing(doing)?;
    Ok(namespace.into())
}
