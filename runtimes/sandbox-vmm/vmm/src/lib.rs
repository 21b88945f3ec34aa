//! A microVM in one small, jailed process.
//!
//! All that a parent uses is in [`client`]: it starts the process and sends it a
//! [`Configuration`] with all descriptors it will ever have. The process makes the machine's parts
//! ([`machine`]): memory ([`memory`], [`layout`]), virtual CPUs ([`cpu`]), devices ([`devices`]) on a
//! [`bus`]; it puts a kernel into the memory ([`boot`]), locks itself into a [`jail`], and only then runs
//! the guest. It answers a few requests, counts what happens ([`metrics`]), and says at last why it ended.
//!
//! It knows nothing of containers, opens no path, and trusts nothing that a guest writes.

pub mod boot;
pub mod bus;
pub mod client;
pub mod cpu;
pub mod devices;
pub mod jail;
pub mod layout;
pub mod machine;
mod memfd;
pub mod memory;
pub mod metrics;

use std::process::ExitCode;

pub use client::{configuration, control, exit, process};

use configuration::Configuration;
use exit::Exit;
use machine::control::{Control, Failure};

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
        Err(why) => trefoil_jail::Failure::new("begin", why).into(),
    };
    if let Exit::Failed(_) = exit {
        eprintln!("trefoil-vmm: {exit}");
    }
    ExitCode::from(u8::try_from(control.end(exit)).unwrap_or(1))
}

fn refuse(why: &Failure) -> ExitCode {
    eprintln!("trefoil-vmm: {why}");
    ExitCode::FAILURE
}
