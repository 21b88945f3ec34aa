//! What the stage of a container's init does, in order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::{Pid, getpid};

use super::namespaces::{PidNamespace, enter_pid_namespace};
use super::plan::{Container, Plan};
use super::{process, procfs};
use crate::root::{self, Root};
use crate::setup;
use crate::setup::channel::Channel;
use crate::setup::console::Console;
use crate::setup::descriptors;
use crate::setup::error::{Doing, Failure};
use crate::setup::fork::Forked;
use crate::setup::hostproc::HostProc;
use crate::setup::limits;
use crate::setup::line::Line;
use crate::setup::memory_policy;
use crate::setup::names;
use crate::setup::null::Null;
use crate::setup::stage::Actor;
use crate::setup::steps::{Facts, hide};

use super::words::{GO, MOUNTED, TERMINAL};

/// What the stage has of the host.
pub(super) struct HostResources<'a> {
    /// The streams that init was given.
    pub(super) streams: [Option<BorrowedFd<'a>>; 3],
    /// The host's `/dev/null`, for a container that has none.
    pub(super) null: Option<&'a Null>,
    /// The line to init.
    pub(super) line: &'a Line,
}

/// An init that is born, and waits for its root.
struct ClonedInit {
    pid: Pid,
    channel: Channel,
}

/// What the stage works with once it is in the container's namespaces.
struct StageContext<'a> {
    actor: &'a Actor,
    container: &'a Container<'a>,
    host: &'a HostResources<'a>,
    proc: HostProc,
    process: setup::plan::Plan,
    facts: Facts,
    /// The init, unless it is born last.
    init: Option<ClonedInit>,
}

pub(super) fn act(
    actor: &mut Actor,
    container: &Container<'_>,
    mut plan: Plan,
    host: &HostResources<'_>,
) -> Result<(), Failure> {
    // It is in the cgroup now, and its limits hold.
    actor.wait_for(GO)?;
    let root = enter_namespaces(container, &mut plan)?;
    let mut context = StageContext {
        facts: Facts::new(&plan.proc),
        process: plan.process,
        proc: plan.proc,
        init: None,
        actor,
        container,
        host,
    };
    match &plan.namespaces.pid {
        PidNamespace::New => context.bear(true)?,
        PidNamespace::Hosts => context.bear(false)?,
        PidNamespace::Joined(_) => {}
    }
    let root = root.prepare(&mut || context.begin_proc(&plan.namespaces.pid))?;
    context.run_hooks()?;
    context.enter(&root)?;
    plan.sysctls.apply(&context.proc)?;
    names::apply(container.spec)?;
    context.hand_over(root)
}

/// Returns what the root is to be, which is looked for on the way.
fn enter_namespaces(container: &Container<'_>, plan: &mut Plan) -> Result<root::Plan, Failure> {
    limits::adjust_oom_score(&plan.proc, container.process()?, container.spec)?;
    plan.process.limits.make_room()?;
    // The mount namespace to come takes this directory along: nobody need walk there by its name, which
    // the container's root may not.
    rustix::process::fchdir(&plan.root_directory).doing(|| "enter the root filesystem")?;
    plan.namespaces.enter_mount()?;
    let root = plan.root(container)?;
    plan.namespaces.enter(&plan.proc)?;
    // Changing the user, as a user namespace demands, makes the process visible.
    hide()?;
    memory_policy::apply(container.spec)?;
    Ok(root)
}

impl StageContext<'_> {
    /// Creates the init, which waits for its root.
    fn bear(&mut self, new_pid_namespace: bool) -> Result<(), Failure> {
        let (ours, theirs) = Channel::pair().doing(|| "make sockets to the container's init")?;
        match self.actor.create(new_pid_namespace)? {
            Forked::Child => process::early(
                &self.process,
                self.facts,
                self.container,
                &self.proc,
                &theirs,
                self.host.line,
            ),
            Forked::Parent { pid, .. } => {
                self.init = Some(ClonedInit { pid, channel: ours });
                Ok(())
            }
        }
    }

    /// Begins `proc` of the container's pid namespace.
    fn begin_proc(&self, namespace: &PidNamespace) -> Result<OwnedFd, Failure> {
        match (namespace, &self.init) {
            (PidNamespace::New, Some(init)) => init.begin_proc(),
            (PidNamespace::Joined(_), _) => procfs::begin_among_others(),
            _ => procfs::begin(),
        }
    }

    /// Has the worker run the hooks that are the host's, and runs those that are the container's, which
    /// still has the host's root.
    fn run_hooks(&self) -> Result<(), Failure> {
        let pid = self.init.as_ref().map_or_else(getpid, |init| init.pid);
        self.actor.say(MOUNTED, &pid.to_string(), &[])?;
        let go = self.actor.wait_for(GO)?;
        // Of what has just been born: in a joined one all that is born is in it anyway.
        if let Some(namespace) = go.descriptors.first() {
            enter_pid_namespace(namespace)?;
        }
        self.container
            .run_hooks("createContainer", "creating", Some(pid.as_raw()))
    }

    /// Goes into the root.
    fn enter(&self, root: &Root) -> Result<(), Failure> {
        root.pivot(self.container.no_pivot_root)?;
        root.set_propagation()?;
        root.make_directory(self.process.credentials.cwd())
    }

    /// The last of the root, and its being given to the init.
    fn hand_over(self, root: Root) -> Result<(), Failure> {
        let console = match self.container.terminal {
            true => Some(Console::allocate(&self.proc, self.process.window_size)?),
            false => None,
        };
        if let Some(console) = &console {
            root.attach_console(console.peer.as_fd())?;
            let master = [console.master.as_fd()];
            self.actor.say(TERMINAL, "", &master)?;
        }
        let null = Null::open(&self.proc)?;
        let streams = match (&console, null.as_ref().or(self.host.null)) {
            (Some(console), _) => [console.peer.as_fd(); 3],
            (None, Some(null)) => null.fill(self.host.streams),
            (None, None) => return Err(Failure::new("there is no /dev/null for the process")),
        };
        let directory = root
            .as_fd()
            .try_clone_to_owned()
            .doing(|| "keep the container's root directory")?;
        root.finish()?;
        if let Some(init) = &self.init {
            let [stdin, stdout, stderr] = streams;
            return init
                .channel
                .say(GO, "", &[directory.as_fd(), stdin, stdout, stderr])
                .doing(|| "give the container's init its root");
        }
        self.process.labels.apply(&self.proc)?;
        // From here on nothing of the host is open but the standard streams: a process of the pid
        // namespace may take what init has from its first moment on.
        descriptors::arrange(streams, self.host.line.theirs())?;
        self.actor
            .create_last(|| process::late(&self.process, self.facts, self.container))
    }
}

impl ClonedInit {
    fn begin_proc(&self) -> Result<OwnedFd, Failure> {
        self.channel
            .say(procfs::BEGUN, "", &[])
            .doing(|| "talk to the container's init")?;
        procfs::receive(&self.channel)
    }
}
