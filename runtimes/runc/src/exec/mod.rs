//! Starts a further process in a running container.
//!
//! [`exec`] runs in a *worker*: a short-lived, single-threaded process whose parent is the shim
//! server. The process it
//! starts is the worker's sibling, a child of the server, which therefore sees it exit.
//!
//! ```text
//!  worker    stage (see setup/stage.rs)                                   new process
//!  plan ───▶ affinity ─ cgroups ─ limits ─ namespaces ─ terminal ─ fork ─▶ setup/steps.rs
//!    ▲                                                                        │ execve
//!    └──────────────────────────────── line ◀─────────────────────────────────┘
//! ```
//!
//! Start reading at [`exec`]. What is decided on the host is in `setup/plan.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};

mod cgroups;
mod namespaces;

use crate::setup::console::Console;
use crate::setup::descriptors;
pub use crate::setup::error::ExecError;
use crate::setup::error::Failure;
use crate::setup::hostproc::HostProc;
use crate::setup::limits;
use crate::setup::line::Line;
use crate::setup::memory_policy;
use crate::setup::null::Null;
use crate::setup::plan::Plan;
use crate::setup::stage::{Actor, Stage};
use crate::setup::steps::{self, Facts, Later, hide};
use namespaces::Target;

/// A process to start, and where.
#[derive(Debug)]
pub struct Exec<'a> {
    /// A pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// The process, from containerd's request; see [`trefoil_spec::parse_process`].
    pub process: &'a Process,
    /// The container's spec: its seccomp profile and personality bind every process in it, and its
    /// init's settings stand in for what `process` leaves out.
    pub spec: &'a Spec,
    /// The directories of the container's cgroups on the host, one per hierarchy; with none (or
    /// for hierarchies not named) the process joins its init wherever that is.
    pub cgroups: &'a [PathBuf],
    /// Whether the process gets a session keyring of its own, as it must unless its handler says not.
    pub new_keyring: bool,
    /// What the process reads and writes.
    pub stdio: Stdio<'a>,
}

/// A process's standard streams.
#[derive(Debug)]
pub enum Stdio<'a> {
    /// Descriptors; where there is none, the host's `/dev/null`.
    Streams {
        /// Descriptor 0.
        stdin: Option<BorrowedFd<'a>>,
        /// Descriptor 1.
        stdout: Option<BorrowedFd<'a>>,
        /// Descriptor 2.
        stderr: Option<BorrowedFd<'a>>,
    },
    /// A terminal from the container's `/dev/pts`, as large as the process's `consoleSize`.
    Terminal,
}

/// A process that runs its program.
#[derive(Debug)]
pub struct Started {
    /// Its id on the host. It is a child of the caller's parent, which must reap it.
    pub pid: Pid,
    /// Refers to it even when the id is reused.
    pub pidfd: OwnedFd,
    /// The runtime's end of its terminal, for [`Stdio::Terminal`].
    pub master: Option<OwnedFd>,
}

/// Starts a process in a container, and returns once it runs its program or cannot.
///
/// The caller
/// * is single-threaded, shares nothing with its parent but that it is its child (so not made with
///   `CLONE_FS` or `CLONE_VM`), was made with SIGCHLD as its exit signal (the new process inherits
///   that);
/// * has made sure that the container is not paused: joining a frozen cgroup freezes the stage;
/// * bounds the time it waits, should the container's files be on a server that does not answer.
///
/// # Errors
/// See [`ExecError`]. For [`ExecError::Child`] there is a process to reap.
pub fn exec(request: &Exec<'_>) -> Result<Started, ExecError> {
    let plan = Plan::new(request.process, request.spec)?;
    refuse_listener(&plan)?;
    let proc = HostProc::open()?;
    let target = Target::new(&proc, request.init)?;
    start(request, plan, proc, &target).map_err(|error| match error {
        // Whatever was in the way, that explains it.
        ExecError::Setup(_) if target.has_exited() => ExecError::init_has_exited(),
        other => other,
    })
}

/// A further process would have to give its filter's descriptor to the agent before it runs.
fn refuse_listener(plan: &Plan) -> Result<(), ExecError> {
    match &plan.seccomp {
        Some(filter) if filter.has_listener() => Err(ExecError::Invalid(
            "the container's seccomp profile asks a listener (SCMP_ACT_NOTIFY), \
             which is not supported for further processes"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The word with which the stage hands over a terminal.
const TERMINAL: u8 = b't';

fn start(
    request: &Exec<'_>,
    plan: Plan,
    proc: HostProc,
    target: &Target<'_>,
) -> Result<Started, ExecError> {
    if request.new_keyring {
        crate::keyring::leave_the_hosts().map_err(|why| Failure::new(why.to_string()))?;
    }
    let hosts_null = Null::open(&proc)?;
    let line = Line::new()?;
    let stage = Stage::begin(None, |actor| {
        let null = hosts_null.as_ref();
        act(actor, request, &plan, &proc, target, null, &line)
    })?;
    let listener = line.listen();
    let master = match stage.hear()? {
        Some(mut said) if said.word == TERMINAL => said.descriptors.pop(),
        _ => None,
    };
    let (pid, pidfd) = stage.end()?;
    match listener.wait_for_program() {
        Ok(()) => Ok(Started { pid, pidfd, master }),
        Err(message) => Err(ExecError::Child { pid, message }),
    }
}

/// What the stage does.
fn act(
    actor: &mut Actor,
    request: &Exec<'_>,
    plan: &Plan,
    proc: &HostProc,
    target: &Target<'_>,
    hosts_null: Option<&Null>,
    line: &Line,
) -> Result<(), Failure> {
    // As the host's root, and before anything of the container can look at this process.
    limits::adjust_oom_score(proc, request.process, request.spec)?;
    plan.affinity.before_cgroups()?;
    cgroups::join(proc, target.pid(), request.cgroups)?;
    plan.affinity.after_cgroups()?;
    plan.limits.make_room()?;
    plan.labels.apply(proc)?;
    hide()?;
    target.join()?;
    // Changing the user, which joining may do, makes the process visible again.
    hide()?;

    memory_policy::apply(request.spec)?;
    let facts = Facts::new(proc);
    let null = Null::open(proc)?;
    let console = match request.stdio {
        Stdio::Terminal => Some(Console::allocate(proc, plan.window_size)?),
        Stdio::Streams { .. } => None,
    };
    let streams = match (&request.stdio, &console, null.as_ref().or(hosts_null)) {
        (_, Some(console), _) => {
            actor.say(TERMINAL, "", &[console.master.as_fd()])?;
            [console.peer.as_fd(); 3]
        }
        (
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            },
            _,
            Some(null),
        ) => null.fill([*stdin, *stdout, *stderr]),
        _ => return Err(Failure::new("there is no /dev/null for the process")),
    };
    let terminal = console.is_some();
    // From here on nothing of the host is open but the standard streams: a process of the container
    // may take what the new process has from its first moment on.
    descriptors::arrange(streams, line.theirs())?;
    actor.create_last(|| steps::run(plan, facts, terminal, &Later))
}
