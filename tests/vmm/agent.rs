//! The guest that pods get: our kernel with the agent, in our VMM.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, ensure};
use rig::guest::Images;
use trefoil_agent_protocol::{Ready, Request};
use trefoil_vmm::exit::{Exit, Stop};

use crate::vmm::machine::{Agent, Machine, Vmm};
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("agent::processors", processors),
    ("agent::memory", memory),
    ("agent::many_in_a_row", many_in_a_row),
];

fn machine(setting: &Setting) -> Machine {
    Machine::new(&Images {
        image: setting.agent.clone(),
        ..setting.images.clone()
    })
}

/// What the agent says once it is ready, and its connection.
pub fn hear(agent: File) -> Result<(BufReader<File>, Ready)> {
    let mut agent = BufReader::new(agent);
    let mut line = String::new();
    agent.read_line(&mut line).context("hearing the agent")?;
    let ready = line
        .parse()
        .with_context(|| format!("the agent's first line is {line:?}"))?;
    Ok((agent, ready))
}

/// Asks the agent to power off.
pub fn power_off(agent: &mut BufReader<File>) -> Result<()> {
    writeln!(agent.get_mut(), "{}", Request::PowerOff).context("asking the agent to power off")
}

/// Boots it until the agent is ready, and has the agent power it off.
fn ready(machine: &Machine) -> Result<()> {
    let Agent {
        stream,
        mut machine,
        ..
    } = machine.boot_agent(Vmm::Trefoil)?;
    let (mut agent, ready) = hear(stream)?;
    ensure!(ready.tsc > 0, "the guest's time stamp counter stands still");
    power_off(&mut agent)?;
    machine
        .await_end()?
        .expect(|exit| *exit == Exit::Done(Stop::PoweredOff))
}

fn processors(setting: &Setting) -> Result<()> {
    for count in [1, 2, 8] {
        let mut machine = machine(setting);
        (machine.cpus, machine.most_cpus) = (count, count);
        ready(&machine).with_context(|| format!("with {count} processors"))?;
    }
    Ok(())
}

fn memory(setting: &Setting) -> Result<()> {
    // With less, Linux allows itself fewer threads than it starts.
    for mib in [24, 64, 4096] {
        let mut machine = machine(setting);
        machine.memory = mib;
        ready(&machine).with_context(|| format!("with {mib} MiB"))?;
    }
    Ok(())
}

/// As pods' guests are booted: without a console. Fewer where KVM is emulated: other trials boot there,
/// too, some hundred in a run.
fn many_in_a_row(setting: &Setting) -> Result<()> {
    let mut machine = machine(setting);
    machine.console = false;
    let count = if rig::test_vm::inside() { 10 } else { 30 };
    for number in 1..=count {
        ready(&machine).with_context(|| format!("boot number {number}"))?;
    }
    Ok(())
}
