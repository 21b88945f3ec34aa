//! What has happened in the pod so far.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Check, Denial, ensure};

/// Of the pod.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) is_set_up: bool,
    /// The device of the scratch disk.
    pub(super) scratch: Option<u32>,
    /// Containers by the host's names.
    pub(super) containers: BTreeMap<String, Instance>,
    /// What was seen of the policy's containers, by the policy's names.
    histories: BTreeMap<String, History>,
    /// Volumes whose files are there.
    pub(super) filled: BTreeSet<String>,
    /// Those whose files are being written.
    pub(super) filling: BTreeSet<String>,
    /// How many containers there have been.
    made: u64,
}

/// A container that was made and not deleted.
#[derive(Debug)]
pub(super) struct Instance {
    /// What the policy calls it.
    pub(super) name: String,
    /// Tells it from others that have had the host's name for it.
    pub(super) number: u64,
    pub(super) phase: Phase,
    /// How it ended, if it did before its start was known to have succeeded.
    pub(super) early: Option<bool>,
    /// The device with its layers.
    pub(super) device: u32,
    pub(super) terminal: bool,
    /// The processes that were run beside its first one, and whether they have a terminal.
    pub(super) processes: BTreeMap<String, bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    /// Its start has passed, and nobody has said how it went.
    Starting,
    Running,
    Ended,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// What was seen of a container of the policy's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct History {
    pub(super) started: bool,
    /// How the last one ended, if one did.
    pub(super) ended: Option<bool>,
    /// One of them has ended with success.
    pub(super) succeeded: bool,
}

impl State {
    pub(super) fn history(&self, name: &str) -> History {
        self.histories.get(name).copied().unwrap_or_default()
    }

    fn history_mut(&mut self, name: &str) -> &mut History {
        self.histories.entry(name.to_owned()).or_default()
    }

    /// The container of a host's name.
    pub(super) fn known(&self, container: &str) -> Result<&Instance, Denial> {
        self.containers
            .get(container)
            .ok_or_else(|| unknown(container))
    }

    /// The same, which has to be in a phase.
    pub(super) fn in_phase(&self, container: &str, wanted: Phase) -> Result<&Instance, Denial> {
        let instance = self.known(container)?;
        let phase = instance.phase;
        ensure(Check::Phase, phase == wanted, || {
            let allowed = format!("one that is {}", wanted.name());
            (
                "container",
                format!("{container:?} is {}", phase.name()),
                allowed,
            )
        })?;
        Ok(instance)
    }

    /// Notes a container that has passed.
    pub(super) fn add(&mut self, container: String, name: String, device: u32, terminal: bool) {
        self.made += 1;
        let instance = Instance {
            name,
            number: self.made,
            phase: Phase::Created,
            early: None,
            device,
            terminal,
            processes: BTreeMap::new(),
        };
        self.containers.insert(container, instance);
    }

    /// Notes that the start of a container has passed.
    pub(super) fn starting(&mut self, container: &str) {
        if let Some(instance) = self.containers.get_mut(container) {
            instance.phase = Phase::Starting;
        }
    }

    /// Notes how the start of a container went, unless it is gone.
    pub(super) fn start_over(&mut self, number: u64, success: bool) {
        let mut all = self.containers.iter_mut();
        let starting = |one: &Instance| one.number == number && one.phase == Phase::Starting;
        let Some((container, instance)) = all.find(|(_, one)| starting(one)) else {
            return;
        };
        instance.phase = match success {
            true => Phase::Running,
            false => Phase::Created,
        };
        let (container, name) = (container.clone(), instance.name.clone());
        let early = instance.early.take();
        if success {
            self.history_mut(&name).started = true;
        }
        if let Some(ended) = early {
            self.ended(&container, ended);
        }
    }

    pub(super) fn ended(&mut self, container: &str, success: bool) {
        let Some(instance) = self.containers.get_mut(container) else {
            return;
        };
        match instance.phase {
            Phase::Ended => return,
            Phase::Starting => {
                instance.early.get_or_insert(success);
                return;
            }
            Phase::Created | Phase::Running => {}
        }
        // Success is of what ran.
        let success = success && instance.phase == Phase::Running;
        instance.phase = Phase::Ended;
        let name = instance.name.clone();
        let history = self.history_mut(&name);
        history.ended = Some(success);
        history.succeeded |= success;
    }

    /// Forgets a container. Without another end it has ended without success.
    pub(super) fn deleted(&mut self, container: &str) {
        if let Some(instance) = self.containers.get(container) {
            self.start_over(instance.number, false);
        }
        self.ended(container, false);
        self.containers.remove(container);
    }
}

fn unknown(container: &str) -> Denial {
    let came = format_args!("{container:?} came");
    let allowed = "a container that was created and not deleted";
    Denial::new(Check::Unmade, "container", came, allowed)
}
