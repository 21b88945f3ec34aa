//! What is asked of containers that are there.

use super::container::{check_name, check_streams};
use super::process::Variables;
use super::state::Phase;
use super::{Approved, Gate, Output, Start, process, resources};
use crate::{Check, Command, Container, Denial, Exec, Request, Resources, Signal, Streams, ensure};

/// The most processes of a container beside its first one.
const MOST_PROCESSES: usize = 1024;

impl Gate {
    /// The container of the policy's that one of the host's is, and the rules for its variables.
    fn container_of(&self, container: &str) -> Result<(&Container, &Variables), Denial> {
        let instance = self.state.known(container)?;
        self.of_policy(&instance.name).ok_or_else(|| {
            let came = format_args!("{container:?} came");
            Denial::new(Check::Container, "container", came, "one of the policy's")
        })
    }

    pub(super) fn start(&mut self, container: String) -> Result<Approved, Denial> {
        let number = self.state.in_phase(&container, Phase::Created)?.number;
        self.state.starting(&container);
        Ok(Approved {
            start: Some(Start(number)),
            ..Approved::plain(Request::StartContainer { container })
        })
    }

    pub(super) fn check_running(&self, container: &str) -> Result<(), Denial> {
        self.state.in_phase(container, Phase::Running).map(drop)
    }

    /// Whether there is such a process; without a name it is the container's first.
    pub(super) fn known_process(&self, container: &str, process: &str) -> Result<(), Denial> {
        let instance = self.state.known(container)?;
        let known = process.is_empty() || instance.processes.contains_key(process);
        ensure(Check::Process, known, || {
            (
                "process",
                format!("{process:?} came"),
                "one that was run and not waited for",
            )
        })
    }

    pub(super) fn exec(&mut self, asked: Exec) -> Result<Approved, Denial> {
        let approved = self.decide_exec(asked)?;
        if let Request::Exec(passed) = &approved.request {
            self.note_exec(passed);
        }
        Ok(approved)
    }

    /// Notes that a process is run.
    pub(super) fn note_exec(&mut self, asked: &Exec) {
        if let Some(instance) = self.state.containers.get_mut(&asked.container) {
            let name = asked.process.clone();
            instance.processes.insert(name, asked.streams.terminal);
        }
    }

    fn decide_exec(&self, asked: Exec) -> Result<Approved, Denial> {
        self.check_new_process(&asked)?;
        let (container, variables) = self.container_of(&asked.container)?;
        let host = &asked.configuration;
        let fitting = |one: &&crate::ExecRule| process::is_allowed(&one.command, &host.args);
        let rules: Vec<_> = container.exec.iter().filter(fitting).collect();
        ensure(Check::Exec, !rules.is_empty(), || {
            let came = format!("{:?} came", host.args);
            ("configuration.args", came, commands(container))
        })?;
        let rule = pick(&rules, &asked.streams, host.terminal);
        check_exec_streams(rule, &asked.streams, host.terminal)?;
        check_streams(&asked.streams, host.terminal)?;
        let (configuration, bound) = process::further(
            &container.process,
            variables,
            container.oom_score,
            asked.configuration,
        )
        .map_err(|denial| denial.within("configuration"))?;
        let shown = rule.is_some_and(|rule| rule.output);
        Ok(Approved {
            output: if shown {
                Output::Shown
            } else {
                Output::Withheld
            },
            root: None,
            start: None,
            bound,
            request: Request::Exec(Box::new(Exec {
                configuration,
                ..asked
            })),
        })
    }

    /// What holds of a new process whatever it runs.
    pub(super) fn check_new_process(&self, asked: &Exec) -> Result<(), Denial> {
        let instance = self.state.in_phase(&asked.container, Phase::Running)?;
        check_name("process", &asked.process)?;
        let is_new = !instance.processes.contains_key(&asked.process);
        ensure(Check::ProcessTwice, is_new, || {
            let came = format!("{:?} came again", asked.process);
            ("process", came, "a name that no process has")
        })?;
        let many = instance.processes.len();
        ensure(Check::ProcessCount, many < MOST_PROCESSES, || {
            (
                "process",
                "one more came",
                format!("{MOST_PROCESSES} at a time"),
            )
        })
    }

    pub(super) fn signal(&self, asked: Signal) -> Result<Approved, Denial> {
        let (container, _) = self.container_of(&asked.container)?;
        if !asked.all {
            self.known_process(&asked.container, &asked.process)?;
        }
        let allowed = container.signals.contains(&asked.signal);
        ensure(Check::Signal, allowed, || {
            let allowed = format!("{:?}", container.signals);
            ("signal", format!("{} came", asked.signal), allowed)
        })?;
        Ok(Approved::plain(Request::Signal(asked)))
    }

    pub(super) fn check_resize(&self, container: &str, process: &str) -> Result<(), Denial> {
        self.known_process(container, process)?;
        let instance = self.state.known(container)?;
        let terminal = match process {
            "" => instance.terminal,
            name => instance.processes.get(name).copied().unwrap_or(false),
        };
        ensure(Check::NoTerminal, terminal, || {
            ("process", "it came", "one with a terminal")
        })?;
        let attached = !process.is_empty() || self.policy.knobs.attach;
        ensure(Check::Attach, attached, || {
            ("process", "the first one came", "none: knobs.attach is off")
        })
    }

    pub(super) fn update(&self, container: String, asked: Resources) -> Result<Approved, Denial> {
        let (policy, _) = self.container_of(&container)?;
        let bounds = policy.update.clone();
        ensure(Check::Update, bounds.is_some(), || {
            (
                "resources",
                "they came",
                "none: the policy has no bounds for an update",
            )
        })?;
        let resources = resources::later(policy, &bounds.unwrap_or_default(), asked)
            .map_err(|denial| denial.within("resources"))?;
        Ok(Approved::plain(Request::Update {
            container,
            resources: Box::new(resources),
        }))
    }
}

/// Of the rules for a command, the first that gives what is asked for; else the first.
fn pick<'a>(
    rules: &[&'a crate::ExecRule],
    streams: &Streams,
    terminal: bool,
) -> Option<&'a crate::ExecRule> {
    let gives = |rule: &&&crate::ExecRule| {
        (rule.terminal || !terminal) && (rule.stdin || streams.stdin == 0)
    };
    let fitting = rules.iter().find(gives).or(rules.first());
    fitting.copied()
}

fn check_exec_streams(
    rule: Option<&crate::ExecRule>,
    streams: &Streams,
    terminal: bool,
) -> Result<(), Denial> {
    let allowed = rule.is_none_or(|rule| rule.terminal);
    ensure(Check::ExecTerminal, !terminal || allowed, || {
        (
            "configuration.terminal",
            "true came",
            "false, for this command",
        )
    })?;
    let allowed = rule.is_none_or(|rule| rule.stdin);
    ensure(Check::ExecStdin, streams.stdin == 0 || allowed, || {
        ("streams.stdin", "it came", "none, for this command")
    })
}

/// The commands that may be run in a container.
fn commands(container: &Container) -> String {
    let text = |command: &Command| {
        let arguments = command.arguments.iter().map(ToString::to_string);
        let more = command.more.then(|| "…".to_owned());
        arguments.chain(more).collect::<Vec<_>>().join(" ")
    };
    let all: Vec<_> = container
        .exec
        .iter()
        .map(|one| text(&one.command))
        .collect();
    match all.as_slice() {
        [] => "none: the policy has no exec for this container".into(),
        all => all.join("; "),
    }
}
