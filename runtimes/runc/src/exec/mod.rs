//! Starts a further process in a running container.
//!
//! [`exec`] runs in a *worker*: a short-lived, single-threaded process whose parent is the shim
//! server. It changes the worker beyond repair, so the worker exits when it returns. The process it
//! starts is the worker's sibling, a child of the server, which therefore sees it exit.
//!
//! ```text
//!  worker (host)                         worker (in the container)     new process
//!  plan ─ affinity ─ cgroups ─ limits ─▶ namespaces ─ terminal ─ fork ─▶ child.rs, step by step
//!                                                        ▲                  │ execve
//!                                                        └── report pipe ◀──┘
//! ```
//!
//! Start reading at [`exec`], then `child.rs`. What is decided on the host is in `plan.rs`; each
//! other file is one idea. `executor.rs` gives a container's first process the same lookup of
//! programs, the same HOME and the same errors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};

mod capabilities;
mod cgroups;
mod child;
mod console;
mod cpulist;
mod credentials;
mod descriptors;
mod directory;
mod environment;
mod error;
mod executor;
mod fork;
mod hostproc;
mod labels;
mod limits;
mod lookup;
mod namespaces;
mod passwd;
mod plan;
mod program;
mod report;
mod request;
mod scheduling;
mod seccomp;
mod signals;

pub use error::ExecError;
pub use executor::InitExecutor;
pub use request::parse_process;

use console::Console;
use error::{Doing, Failure};
use fork::Forked;
use hostproc::HostProc;
use namespaces::Target;
use plan::Plan;
use report::Report;

/// A process to start, and where.
#[derive(Debug)]
pub struct Exec<'a> {
    /// A pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// The process, from containerd's request; see [`parse_process`].
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
///   that), and exits soon after, whatever the result: it is in the container's cgroups and
///   namespaces by then, may run out of the container's memory, and may be killed for it;
/// * has made sure that the container is not paused: joining a frozen cgroup freezes the worker;
/// * bounds the time it waits, should the container's files be on a server that does not answer.
///
/// # Errors
/// See [`ExecError`]. For [`ExecError::Child`] there is a process to reap.
pub fn exec(request: &Exec<'_>) -> Result<Started, ExecError> {
    let plan = Plan::new(request.process, request.spec)?;
    let proc = HostProc::open()?;
    let target = Target::new(&proc, request.init)?;
    start(request, plan, &proc, &target).map_err(|error| match error {
        // Whatever was in the way, that explains it.
        ExecError::Setup(_) if target.has_exited() => ExecError::init_has_exited(),
        other => other,
    })
}

fn start(
    request: &Exec<'_>,
    plan: Plan,
    proc: &HostProc,
    target: &Target<'_>,
) -> Result<Started, ExecError> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .doing(|| "open /dev/null")?;

    if request.new_keyring {
        crate::keyring::leave_the_hosts().map_err(|why| Failure::new(why.to_string()))?;
    }
    // As the host's root, and before anything of the container can look at this process.
    limits::adjust_oom_score(proc, request.process, request.spec)?;
    plan.affinity.before_cgroups()?;
    cgroups::join(proc, target.pid(), request.cgroups)?;
    plan.affinity.after_cgroups()?;
    plan.limits.make_room()?;
    hide()?;
    target.join()?;
    // Changing the user, which joining may do, makes the process visible again.
    hide()?;

    let streams = Streams::new(&request.stdio, proc, &plan, null.as_fd())?;
    let report = Report::new()?;
    let (pid, pidfd) = match fork::sibling().doing(|| "create a process in the container")? {
        Forked::Child => child::run(plan, proc, &streams, report.writer()),
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let master = match streams {
        Streams::Terminal(console) => Some(console.master),
        Streams::Given(_) => None,
    };
    match report.wait() {
        Ok(()) => Ok(Started { pid, pidfd, master }),
        Err(message) => Err(ExecError::Child { pid, message }),
    }
}

/// Forbids the processes of the container to trace this one or look into its `/proc` directory
/// while it is among them and still holds descriptors of the host.
fn hide() -> Result<(), Failure> {
    // SAFETY: this option takes plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    nix::errno::Errno::result(result)
        .map(drop)
        .doing(|| "hide from the container's processes")
}

/// The descriptors behind a process's standard streams.
#[derive(Debug)]
enum Streams<'a> {
    Given([BorrowedFd<'a>; 3]),
    Terminal(Console),
}

impl<'a> Streams<'a> {
    fn new(
        stdio: &Stdio<'a>,
        proc: &HostProc,
        plan: &Plan,
        null: BorrowedFd<'a>,
    ) -> Result<Self, Failure> {
        Ok(match stdio {
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            } => Self::Given([stdin, stdout, stderr].map(|fd| fd.unwrap_or(null))),
            Stdio::Terminal => Self::Terminal(Console::allocate(proc, plan.window_size)?),
        })
    }

    /// The process's ends.
    fn ends(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Given(fds) => *fds,
            Self::Terminal(console) => [console.peer.as_fd(); 3],
        }
    }
}
