//! Decides about requests: what the policy says of each field, and what has happened so far.

mod container;
mod files;
mod linux;
mod mounts;
mod permissive;
mod pod;
mod process;
mod resources;
mod running;
mod set_up;
mod state;
#[cfg(test)]
mod tests;

use crate::{Check, Container, Denial, Layer, Policy, Request, ensure};
use process::Variables;
use state::State;

/// What protects a guest from its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// A processor.
    Tee,
    /// Nothing: it is a trial.
    Simulated,
}

/// Decides about every request of a host's, by a policy.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    /// Of each container of the policy's, in its order.
    variables: Vec<Variables>,
    state: State,
}

/// A request that has passed: made of what the policy has, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// What is to be done.
    pub request: Request,
    /// Of a process that it makes: whether the host gets what it writes.
    pub output: Output,
    /// Of a container that it makes.
    pub root: Option<GrantedRoot>,
    /// Which variables of a process that it makes, by their places, or which files that it brings the policy
    /// binds to one value. The others' are the host's choice, so no secret is to be put in their place.
    pub bound: Vec<usize>,
    /// Of a container that it starts: by which the gate is told how that went.
    pub start: Option<Start>,
}

/// The start of a container, which is over when the gate has been told how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start(u64);

/// Whether the host gets what a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// It does.
    Shown,
    /// It gets one line that says so.
    Withheld,
}

/// What a container is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedRoot {
    /// What is on the disk with its layers, in the disk's order. None: the policy allows everything, and
    /// nothing verifies them.
    pub layers: Option<Vec<Layer>>,
}

impl Approved {
    /// One that makes no process.
    fn plain(request: Request) -> Self {
        Self {
            request,
            output: Output::Withheld,
            root: None,
            bound: Vec::new(),
            start: None,
        }
    }
}

impl Gate {
    /// A gate of a policy's.
    ///
    /// # Errors
    /// If it allows everything, and something is protected.
    pub fn new(policy: Policy, protection: Protection) -> Result<Self, Denial> {
        ensure(
            Check::Permissive,
            !policy.permissive || protection == Protection::Simulated,
            || {
                let came = "a policy that allows everything came";
                ("policy.permissive", came, "one under a simulated TEE alone")
            },
        )?;
        let processes = policy.containers.iter().map(|one| &one.process);
        Ok(Self {
            variables: processes.map(|one| Variables::of(&one.env)).collect(),
            policy,
            state: State::default(),
        })
    }

    /// Decides about a request while there is no policy, which SetUp brings.
    ///
    /// # Errors
    /// Whatever it is, unless it ends the guest.
    pub fn without_policy(request: Request) -> Result<Approved, Denial> {
        let ends = matches!(request, Request::PowerOff);
        ensure(Check::NotSetUp, ends, || {
            let came = "it came before the guest's policy";
            (request.name(), came, "SetUp, PowerOff")
        })?;
        Ok(Approved::plain(request))
    }

    /// The policy that it decides by.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policy's container of a name, and the rules for its variables.
    fn of_policy(&self, name: &str) -> Option<(&Container, &Variables)> {
        let mut all = self.policy.containers.iter().zip(&self.variables);
        all.find(|(container, _)| container.name == name)
    }

    /// Whether the guest has been set up.
    #[must_use]
    pub const fn is_set_up(&self) -> bool {
        self.state.is_set_up
    }

    /// Decides about a request. What passes is taken for done; where it fails the agent has to say so
    /// ([`Self::not_created`], [`Self::exec_ended`]). What others wait for is not: that a container has been
    /// started and that files are there the agent has to say ([`Self::started`], [`Self::filled`]), or that
    /// they could not be ([`Self::not_started`], [`Self::not_filled`]).
    ///
    /// # Errors
    /// What is not as the policy has it.
    pub fn decide(&mut self, request: Request) -> Result<Approved, Denial> {
        let name = request.name();
        self.check_phase(&request)?;
        let decided = match self.policy.permissive {
            true => self.permit(request),
            false => self.decide_fields(request),
        };
        decided.map_err(|denial| denial.within(name))
    }

    /// Nothing but the set-up is asked before it, and that once.
    fn check_phase(&self, request: &Request) -> Result<(), Denial> {
        let is_set_up = self.state.is_set_up;
        match request {
            Request::SetUp(_) => ensure(Check::SetUpTwice, !is_set_up, || {
                ("SetUp", "it came again", "once")
            }),
            Request::PowerOff => Ok(()),
            other => ensure(Check::NotSetUp, is_set_up, || {
                (other.name(), "it came before SetUp", "SetUp, PowerOff")
            }),
        }
    }

    fn decide_fields(&mut self, request: Request) -> Result<Approved, Denial> {
        match request {
            Request::SetUp(set_up) => self.set_up(set_up),
            Request::CreateContainer(create) => self.create(*create),
            Request::StartContainer { container } => self.start(container),
            Request::Exec(exec) => self.exec(*exec),
            Request::Signal(signal) => self.signal(signal),
            Request::Resize {
                ref container,
                ref process,
                ..
            } => {
                self.check_resize(container, process)?;
                Ok(Approved::plain(request))
            }
            Request::Wait {
                ref container,
                ref process,
            }
            | Request::CloseStdin {
                ref container,
                ref process,
            } => {
                self.known_process(container, process)?;
                Ok(Approved::plain(request))
            }
            Request::Update {
                container,
                resources,
            } => self.update(container, *resources),
            Request::Pause { ref container } | Request::Resume { ref container } => {
                self.check_running(container)?;
                Ok(Approved::plain(request))
            }
            Request::DeleteContainer { ref container }
            | Request::Stats { ref container }
            | Request::Processes { ref container }
            | Request::OutOfMemory { ref container } => {
                self.state.known(container)?;
                Ok(Approved::plain(request))
            }
            Request::PutFiles { volume, files } => self.put_files(volume, files),
            Request::RefreshVolume { share } => no_shares(&share),
            Request::AdjustClock { .. }
            | Request::KernelLog
            | Request::Forward { .. }
            | Request::PowerOff => self.of_the_pod(request),
        }
    }

    /// Says that a container could not be made: its name is free again.
    pub fn not_created(&mut self, container: &str) {
        self.state.containers.remove(container);
    }

    /// Says that a container has been started.
    pub fn started(&mut self, start: Start) {
        self.state.start_over(start.0, true);
    }

    /// Says that a container could not be started: it may be tried again.
    pub fn not_started(&mut self, start: Start) {
        self.state.start_over(start.0, false);
    }

    /// Says that the files of a volume are there.
    pub fn filled(&mut self, volume: &str) {
        self.state.filling.remove(volume);
        if self.policy.volume(volume).is_some() {
            self.state.filled.insert(volume.to_owned());
        }
    }

    /// Says that the files of a volume could not be written: it may be tried again.
    pub fn not_filled(&mut self, volume: &str) {
        self.state.filling.remove(volume);
    }

    /// Says that a container's first process has ended, with success or without. Only the first word of it
    /// counts.
    pub fn ended(&mut self, container: &str, success: bool) {
        self.state.ended(container, success);
    }

    /// Says that a container has been deleted: its name is free again.
    pub fn deleted(&mut self, container: &str) {
        self.state.deleted(container);
    }

    /// Says that a process that was run beside others has ended, or could not be run: its name is free
    /// again.
    pub fn exec_ended(&mut self, container: &str, process: &str) {
        if let Some(instance) = self.state.containers.get_mut(container) {
            instance.processes.remove(process);
        }
    }

    /// The containers that are required and have not been started.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let required = self.policy.containers.iter().filter(|one| one.required);
        let started = |name: &str| self.state.history(name).started;
        required
            .map(|one| one.name.as_str())
            .filter(move |name| !started(name))
    }
}

fn no_shares(share: &str) -> Result<Approved, Denial> {
    Err(Denial::new(
        Check::RefreshVolume,
        "share",
        format_args!("{share:?} came"),
        "PutFiles: a confidential pod shares no files with its host",
    ))
}
