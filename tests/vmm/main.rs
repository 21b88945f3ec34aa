//! Every device against the driver of a real Linux, in machines made by QEMU and by our VMM.
//!
//!     vmm [part of a trial's name]    such as qemu::block
//!     vmm bench [rounds]              what ours transfers, as ratios to QEMU's
//!
//! The same trials run on both: that QEMU passes shows that a trial is right, and so a failure of
//! ours is ours.

mod bench;
mod block;
mod computer;
mod lan;
mod machine;
mod net;
mod peers;
mod rng;
mod scratch;
mod vsock;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use machine::Vmm;
use rig::guest::Images;
use rig::kvm::{self, Place};
use rig::node::{self, Node, init};
use rig::{guard, probe};

/// What a trial is given.
pub struct Setting {
    /// Who makes its machine.
    vmm: Vmm,
    /// What the machine boots.
    images: Images,
}

impl Setting {
    /// A machine to be changed and booted.
    fn machine(&self) -> machine::Machine {
        machine::Machine::new(&self.images)
    }
}

type Body = fn(&Setting) -> Result<()>;

fn main() -> Result<ExitCode> {
    init::take_part()?;
    guard::take_part()?;
    let bench = std::env::args().nth(1).is_some_and(|word| word == "bench");
    // Its arguments are none of the trials'.
    let mut arguments = if bench {
        Arguments::default()
    } else {
        Arguments::from_args()
    };
    // One guest at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        libtest_mimic::run(&arguments, trials(None)).exit();
    }
    let mut images = Images::ensure()?;
    if !node::inside() {
        let place = kvm::place(&images)?;
        images.image = probe::image()?;
        if let Place::Node { .. } = place {
            let node = Node {
                memory: 8192,
                limit: Some(std::time::Duration::from_secs(1800)),
                ..Node::default()
            };
            return kvm::again_in_node("vmm", node, &images);
        }
    }
    if bench {
        return bench::run(&images);
    }
    libtest_mimic::run(&arguments, trials(Some(&images))).exit();
}

fn trials(images: Option<&Images>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for vmm in Vmm::ALL {
        for list in [
            computer::TRIALS,
            rng::TRIALS,
            block::TRIALS,
            vsock::TRIALS,
            net::TRIALS,
        ] {
            for &(name, body) in list {
                let setting = images.map(|images| Setting {
                    vmm,
                    images: images.clone(),
                });
                let name = format!("{}::{name}", vmm.name());
                trials.push(Trial::test(name, move || match &setting {
                    Some(setting) => {
                        body(setting).map_err(|error| Failed::from(format!("{error:#}")))
                    }
                    None => Ok(()),
                }));
            }
        }
    }
    trials
}
