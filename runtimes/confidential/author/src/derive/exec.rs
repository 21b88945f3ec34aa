//! What the kubelet runs in a container by itself: probes and hooks.

use trefoil_policy::{Command, ExecRule, Pattern};

use crate::manifest::container::{Container, EnvVar, ExecAction, Handler, Probe};
use crate::yaml::Fault;

use super::Result;
use super::env::JOB_INDEX;
use super::variables::{Variable, Variables};

/// Works out the commands, each once. None of them needs a terminal, an input or an output.
///
/// # Errors
/// A command without a program.
pub(super) fn of_container(container: &Container, is_indexed: bool) -> Result<Vec<ExecRule>> {
    let mut variables = of_probes(&container.env);
    if is_indexed && !variables.has(JOB_INDEX) {
        variables.set(JOB_INDEX, Variable::exact(""));
    }
    let mut commands = Vec::new();
    for (field, probe) in [
        ("startupProbe", &container.startup_probe),
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
    ] {
        if let Some(Probe {
            exec: Some(action), ..
        }) = probe
        {
            let command = probes(action, &variables)
                .map_err(|fault| fault.in_field("exec").in_field(field))?;
            commands.push(command);
        }
    }
    let lifecycle = &container.lifecycle;
    for (field, hook) in [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ] {
        if let Some(Handler {
            exec: Some(action), ..
        }) = hook
        {
            // The kubelet expands nothing in these.
            let command = checked(action.command.clone());
            commands.push(
                command.map_err(|fault| {
                    fault.in_field("exec").in_field(field).in_field("lifecycle")
                })?,
            );
        }
    }
    let mut all: Vec<ExecRule> = Vec::new();
    for command in commands {
        let exec = without_streams(command);
        if !all.contains(&exec) {
            all.push(exec);
        }
    }
    Ok(all)
}

/// A command that is run without anybody's seeing it.
fn without_streams(arguments: Vec<String>) -> ExecRule {
    ExecRule {
        command: Command {
            arguments: arguments.into_iter().map(Pattern::Exact).collect(),
            more: false,
        },
        terminal: false,
        stdin: false,
        output: false,
    }
}

/// The variables that references in probes are to: those of the manifest as it has them, so one whose value
/// is elsewhere is empty.
fn of_probes(env: &[EnvVar]) -> Variables {
    let mut variables = Variables::default();
    for entry in env {
        variables.set(&entry.name, Variable::exact(entry.value.as_str()));
    }
    variables
}

fn probes(action: &ExecAction, variables: &Variables) -> Result<Vec<String>> {
    let one = |(number, argument): (usize, &String)| {
        let in_it = |fault: Fault| fault.in_item(number).in_field("command");
        let expanded = variables.expand(argument).map_err(in_it)?;
        expanded.exact().map(str::to_owned).ok_or_else(|| {
            in_it(Fault::new(format!(
                "{} is not known here",
                expanded.unknown.join(", ")
            )))
        })
    };
    checked(
        action
            .command
            .iter()
            .enumerate()
            .map(one)
            .collect::<Result<_>>()?,
    )
}

fn checked(command: Vec<String>) -> Result<Vec<String>> {
    match command.first() {
        Some(program) if !program.is_empty() => Ok(command),
        _ => Err(Fault::new("must name a program").in_field("command")),
    }
}
