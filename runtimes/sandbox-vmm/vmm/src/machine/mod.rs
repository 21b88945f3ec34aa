//! The machine: its parts are made from a configuration ([`builder`]), filled ([`crate::boot`]), and
//! the guest is run until it ends ([`supervisor`]).
//!
//! The order: memory and KVM, the devices, the virtual CPUs, the kernel; then the jail closes, and
//! only then does the guest run.

mod builder;
pub mod control;
mod descriptors;
mod devices;
pub mod slots;
mod supervisor;

use std::fs::File;
use std::os::fd::OwnedFd;

use trefoil_jail::Failure;

use crate::boot::{Boot, Description};
use crate::client::configuration::Configuration;
use crate::client::exit::Exit;
use builder::{Machine, mark};
use control::Control;
use descriptors::Descriptors;

/// Makes the machine, closes the jail, runs the guest, and answers how it ended.
pub fn run(
    configuration: &Configuration,
    descriptors: Vec<OwnedFd>,
    control: &mut Control,
    began: u64,
) -> Exit {
    let mut descriptors = Descriptors::new(descriptors);
    let outcome = builder::build(configuration, &mut descriptors, began).and_then(|machine| {
        start(configuration, &mut descriptors, &machine)?;
        // What was handed over and is nobody's by now is closed.
        drop(descriptors);
        supervisor::run(configuration, machine, control)
    });
    outcome.unwrap_or_else(Exit::from)
}

/// Fills a machine's memory with a kernel, and has the first virtual CPU begin there.
fn start(
    configuration: &Configuration,
    descriptors: &mut Descriptors,
    machine: &Machine,
) -> Result<(), Failure> {
    let mut take = |handed, what| descriptors.take(handed, what).map(File::from);
    let kernel = take(configuration.kernel, "the kernel")?;
    let initramfs = configuration
        .initramfs
        .map(|handed| take(handed, "the initramfs"))
        .transpose()?;
    let boot = Boot {
        kernel,
        initramfs,
        command_line: configuration.whole_command_line(),
        description: Description::of(configuration),
    };
    boot.fill(machine.memory.view(), &machine.vcpus)
        .map_err(Failure::at("load the guest"))?;
    mark(&machine.metrics.phases.loaded);
    Ok(())
}
