//! A microVM in one small, jailed process.
//!
//! A parent starts the process ([`mod@process`]) and sends it a [`configuration`] with all descriptors
//! it will ever have. The process makes the machine ([`machine`]): memory ([`ram`], [`layout`]), a
//! kernel in it ([`boot`]), virtual CPUs ([`cpu`]), devices ([`devices`]) on a [`bus`]; it locks itself
//! into a [`jail`], and only then runs the guest. It answers a few requests ([`control`]), counts
//! what happens ([`metrics`]), and says at last why it ended ([`exit`]).
//!
//! It knows nothing of containers, opens no path, and trusts nothing that a guest writes.

pub mod boot;
pub mod bus;
pub mod configuration;
pub mod control;
pub mod cpu;
pub mod devices;
pub mod exit;
pub mod jail;
pub mod layout;
pub mod machine;
pub mod metrics;
pub mod process;
pub mod ram;
pub mod slots;

use std::process::ExitCode;

use configuration::Configuration;
use control::{Control, Failure};
use exit::Exit;

/// All that the VMM's process does: it hears what machine it is to be, is it, and says how it
/// ended.
///
/// # Safety
///
/// It is called once, by a process whose descriptor 3 is its end of a control socket, before
/// anything has opened a descriptor.
pub unsafe fn serve() -> ExitCode {
    let began = metrics::now();
    // SAFETY: our contract is the callee's.
    let mut control = match unsafe { Control::take() } {
        Ok(control) => control,
        Err(why) => return refuse(&why),
    };
    let exit = match control.launch::<Configuration>() {
        Ok((configuration, descriptors)) => {
            machine::run(&configuration, descriptors, &mut control, began)
        }
        Err(Failure::Gone) => Exit::Killed,
        Err(why) => Exit::Internal {
            part: "machine".into(),
            doing: "begin".into(),
            why: why.to_string(),
        },
    };
    if let Exit::Internal { .. } = exit {
        eprintln!("trefoil-vmm: {exit}");
    }
    ExitCode::from(u8::try_from(control.end(exit)).unwrap_or(1))
}

fn refuse(why: &Failure) -> ExitCode {
    eprintln!("trefoil-vmm: {why}");
    ExitCode::FAILURE
}
