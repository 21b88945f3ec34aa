//! Sees a guest through to its end: closes the jail around the process, runs the virtual CPUs, does the
//! devices' work and what the parent asks for.

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::epoll::EpollTimeout;
use trefoil_jail::Failure;

use super::builder::{Machine, mark};
use super::control::Control;
use super::slots::Slots;
use crate::bus;
use crate::client::configuration::{Configuration, Device};
use crate::client::control::{Answer, Message, Request, Stats};
use crate::client::exit::{Exit, Stop};
use crate::cpu::threads::{Ending, Threads};
use crate::devices::block::MOST_WORKERS;
use crate::devices::events::{Events, Tokens};
use crate::devices::transport::Transport;
use crate::jail::{self, seccomp};

/// The loop's own tokens.
const ENDED: u32 = 0;
const CONTROL: u32 = 1;

/// What of a machine the supervisor works with while the guest runs.
struct Supervisor<'a> {
    events: &'a Events,
    devices: &'a [Arc<Mutex<Transport>>],
    slots: Slots,
    threads: &'a Threads,
    control: &'a mut Control,
    ending: &'a Ending,
    /// The parent has stopped the virtual CPUs.
    paused: bool,
}

/// How many threads the process may come to have: ours, and those the kernel makes for disks.
fn most_threads(configuration: &Configuration) -> u32 {
    let is_disk = |device: &_| matches!(device, Device::Block { .. });
    let workers = match configuration.devices.iter().any(is_disk) {
        true => MOST_WORKERS,
        false => 0,
    };
    1 + u32::from(configuration.cpus.most) + workers
}

/// Closes the jail, runs the guest, and answers how it ended.
pub(super) fn run(
    configuration: &Configuration,
    machine: Machine,
    control: &mut Control,
) -> Result<Exit, Failure> {
    let Machine {
        memory: _memory,
        devices,
        events,
        vcpus,
        bus,
        metrics,
        vm: _vm,
    } = machine;
    let ending = Ending::new()
        .map(Arc::new)
        .map_err(Failure::at("make an event"))?;
    events
        .add_own(&*ending, ENDED)
        .map_err(Failure::at("watch for the end"))?;
    events
        .add_own(&*control, CONTROL)
        .map_err(Failure::at("watch the control socket"))?;
    jail::enter(&configuration.jail, most_threads(configuration))
        .map_err(Failure::at("enter the jail"))?;
    mark(&metrics.phases.jailed);
    let filter = seccomp::compile(seccomp::Thread::Vcpu)
        .map(Arc::new)
        .map_err(Failure::at("prepare the virtual CPUs' system call filter"))?;
    let confine = move || seccomp::install(&filter).map_err(|why| why.to_string());
    let threads = Threads::start(
        vcpus,
        bus,
        Arc::clone(&metrics),
        Arc::clone(&ending),
        confine,
    )
    .map_err(Failure::at("start the virtual CPUs"))?;
    let own = seccomp::compile(seccomp::Thread::Events)
        .map_err(Failure::at("prepare the system call filter"))?;
    seccomp::install(&own).map_err(Failure::at("install the system call filter"))?;

    mark(&metrics.phases.running);
    threads.resume();
    control.send(&Message::Running);
    let mut supervisor = Supervisor {
        events: &events,
        devices: &devices,
        slots: Slots::new(&configuration.devices, &devices),
        threads: &threads,
        control,
        ending: &ending,
        paused: false,
    };
    let exit = supervisor.serve();
    threads.stop();
    if exit == Exit::Done(Stop::PoweredOff) {
        shut_down(&devices)?;
    }
    Ok(exit)
}

/// The machine ends in order: so do its devices.
fn shut_down(devices: &[Arc<Mutex<Transport>>]) -> Result<(), Failure> {
    for device in devices {
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        device.shut_down().map_err(Failure::at(format!(
            "shut the {} device down",
            device.name()
        )))?;
    }
    Ok(())
}

impl Supervisor<'_> {
    /// The loop, until something ends the machine.
    fn serve(&mut self) -> Exit {
        let mut own = Tokens::new();
        loop {
            let turn = self.events.turn(self.devices, &mut own, EpollTimeout::NONE);
            if let Err((device, why)) = turn {
                return bus::failed(device, &why);
            }
            if let Some(exit) = self.ending.get() {
                return exit;
            }
            if own.contains(&CONTROL)
                && let Some(exit) = self.hear()
            {
                return exit;
            }
        }
    }

    /// Does all that the parent has asked for; some of that ends the machine.
    fn hear(&mut self) -> Option<Exit> {
        loop {
            let (request, descriptors) = match self.control.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return None,
                // The parent is gone, and so is whoever wanted this machine.
                Err(_) => return Some(Exit::Killed),
            };
            let mut outcome = Ok(());
            match &request {
                Request::Pause => {
                    self.threads.pause();
                    self.paused = true;
                }
                Request::Resume => {
                    self.threads.resume();
                    self.paused = false;
                }
                Request::Stats => {}
                Request::Attach(wanted) => outcome = self.slots.attach(wanted, descriptors),
                Request::Detach(wanted) => outcome = self.slots.detach(wanted),
                Request::PowerOff => return Some(Exit::Done(Stop::PoweredOff)),
                Request::Kill => return Some(Exit::Killed),
            }
            // A parent that does not read its answers misses them.
            self.control.send(&Message::Answer(match outcome {
                Ok(()) => Answer::Done(Stats {
                    paused: self.paused,
                }),
                Err(why) => Answer::Refused(why.to_string()),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_needs_the_kernels_threads() {
        let configuration = |devices| -> Configuration {
            let cpus = r#"{"boot":1,"most":3,"threads-per-core":1,"model":"host"}"#;
            let jail = r#"{"uid":9,"gid":9,"descriptors":9,"file-size":9}"#;
            let text = format!(
                r#"{{"kvm":0,"kernel":1,"command-line":"","cpus":{cpus},"memory":{{"mib":64}},
                    "devices":[{devices}],"jail":{jail}}}"#
            );
            serde_json::from_str(&text).expect("parse")
        };
        assert_eq!(most_threads(&configuration(r#"{"kind":"rng"}"#)), 4);
        let disk = r#"{"kind":"block","file":2,"read-only":true,"serial":""}"#;
        let two = configuration(&format!("{disk},{disk}"));
        assert_eq!(most_threads(&two), 4 + MOST_WORKERS);
    }
}
