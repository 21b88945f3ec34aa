//! Where what needs a KVM runs: here, or in a test VM. One decision, made by booting a guest.
//!
//! That `/dev/kvm` is there and answers says little: some back ends run a guest's programs but
//! not its kernel.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::guest::{Guest, Images};
use crate::part;
use crate::test_vm::TestVm;

/// `here` or `test-vm`: overrides the probe.
pub const VARIABLE: &str = "TREFOIL_KVM";

/// Where to run what needs a KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here,
    /// In a test VM, because this machine's own KVM won't do.
    TestVm {
        /// Why it won't.
        why: String,
    },
}

/// Decides, and says which and why.
pub fn place(images: &Images) -> Result<Place> {
    let place = match std::env::var(VARIABLE).as_deref() {
        // Whoever has decided that has said so.
        Ok("here") => return Ok(Place::Here),
        Ok("test-vm") => Place::TestVm {
            why: format!("{VARIABLE} says so"),
        },
        Ok(other) => bail!("{VARIABLE} is {other:?}: it may be here or test-vm"),
        Err(_) => match probe(images) {
            Ok(()) => Place::Here,
            Err(error) => Place::TestVm {
                why: format!("{error:#}"),
            },
        },
    };
    match &place {
        Place::Here => println!("KVM: this machine's own"),
        Place::TestVm { why } => println!("KVM: a test VM's, as this machine's won't do: {why}"),
    }
    Ok(place)
}

/// Boots a guest with this machine's KVM.
fn probe(images: &Images) -> Result<()> {
    for device in ["/dev/kvm", "/dev/vhost-vsock"] {
        if !Path::new(device).exists() {
            bail!("there is no {device}");
        }
    }
    let guest = Guest {
        // One that boots at all does so in a fraction of it.
        limit: Duration::from_secs(10),
        ..Guest::new(images.clone())
    };
    guest.boot()?.0.power_off()?;
    Ok(())
}

/// Runs this program again in a test VM, the same part with the same arguments; there [`place`] answers "here".
pub fn again_in_vm(name: &str, mut vm: TestVm, images: &Images) -> Result<ExitCode> {
    vm.environment.push(images.variable()?);
    vm.environment
        .push((VARIABLE.to_owned(), "here".to_owned()));
    vm.hot.extend(images.files());
    let arguments: Vec<String> = part::arguments().collect();
    vm.run_again(name, &arguments)
}
