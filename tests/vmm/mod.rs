//! Every device against the driver of a real Linux, in machines made by QEMU and by our VMM.
//!
//!     trefoil-test vmm [part of a trial's name]    such as qemu::block
//!     trefoil-test vmm bench [--icount] [rounds]   what ours transfers, as ratios to QEMU's
//!     trefoil-test vmm count                       what a boot by ours costs, in instructions
//!
//! The same trials run on both: that QEMU passes shows that a trial is right, and so a failure of
//! ours is ours. A few more are about what only ours has.

mod agent;
mod bench;
mod block;
mod computer;
mod control;
mod count;
mod disk_pods;
mod files;
mod fs;
mod jail;
mod lan;
mod machine;
mod net;
mod peers;
mod pod;
mod rng;
mod scratch;
mod slots;
mod tamper;
mod vsock;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use machine::{Vmm, ours};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::guest::Images;
use rig::kvm::{self, Place};
use rig::probe;
use rig::rerun::Reruns;
use rig::test_vm::{self, TestVm};

/// What a trial is given.
pub struct Setting {
    /// Who makes its machine.
    vmm: Vmm,
    /// What the machine boots: with the probe as its init.
    images: Images,
    /// The image with the agent as its init.
    agent: PathBuf,
    /// The image with the agent and a root for containers.
    pod: PathBuf,
}

/// In a test VM: the agent's images, as the host has built them.
const AGENT: &str = "TREFOIL_AGENT_IMAGES";

impl Setting {
    /// A machine to be changed and booted.
    fn machine(&self) -> machine::Machine {
        machine::Machine::new(&self.images)
    }
}

type Body = fn(&Setting) -> Result<()>;

/// If this process is to be a machine, its file server or a machine's parent, it is that, and then ends as is
/// answered. To be called before anything is opened.
pub fn take_part() -> Result<Option<ExitCode>> {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == ours::PROGRAM {
        // SAFETY: nothing has been opened yet.
        return Ok(Some(unsafe { trefoil_vmm::serve() }));
    }
    if name == files::PROGRAM {
        // SAFETY: nothing has been opened yet.
        return Ok(Some(unsafe { trefoil_files::serve() }));
    }
    if name == jail::PARENTS_NAME {
        return jail::be_parent().map(|()| Some(ExitCode::SUCCESS));
    }
    Ok(None)
}

/// Runs the trials, or one of the two measurements.
pub fn main() -> Result<ExitCode> {
    let asked_for = |what| {
        rig::part::arguments()
            .next()
            .is_some_and(|word| word == what)
    };
    if asked_for("count") {
        return count::run(&Images::ensure()?);
    }
    let bench = asked_for("bench");
    // Its arguments are none of the trials'.
    let mut arguments = if bench {
        Arguments::default()
    } else {
        Arguments::from_iter(rig::part::named())
    };
    // One guest at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        libtest_mimic::run(&arguments, trials(None, &Arc::default())).exit();
    }
    let mut images = Images::ensure()?;
    // In a test VM there is no network to fetch it from.
    rig::erofs::ensure()?;
    let [agent, pod] = match std::env::var_os(AGENT) {
        Some(list) => told_images(&list)?,
        None => [images.image.clone(), rig::pod_guest::image()?],
    };
    if !test_vm::inside() {
        let place = kvm::place(&images)?;
        images.image = probe::image()?;
        if let Place::TestVm { .. } = place {
            let mut vm = TestVm {
                memory: 8192,
                limit: Some(std::time::Duration::from_secs(2400)),
                environment: vec![(
                    AGENT.into(),
                    std::env::join_paths([&agent, &pod])?
                        .to_string_lossy()
                        .into_owned(),
                )],
                hot: vec![agent, pod],
                ..TestVm::default()
            };
            if bench {
                vm.instructions = rig::part::arguments().any(|word| word == bench::ICOUNT);
                let program = ours::release_build()?;
                vm.environment.push(ours::variable(&program));
                vm.hot.push(program);
            }
            return kvm::again_in_vm("vmm", vm, &images);
        }
    }
    // Both ends of thousands of connections.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    if bench {
        return bench::run(&images);
    }
    let reruns = Arc::new(Reruns::default());
    let trials = trials(Some((&images, &agent, &pod)), &reruns);
    let conclusion = libtest_mimic::run(&arguments, trials);
    reruns.tell();
    Ok(conclusion.exit_code())
}

/// What both VMMs have to pass.
const OF_BOTH: &[&[(&str, Body)]] = &[
    computer::TRIALS,
    rng::TRIALS,
    block::TRIALS,
    vsock::TRIALS,
    net::TRIALS,
];

/// What is about ours only.
const OF_OURS: &[&[(&str, Body)]] = &[
    agent::TRIALS,
    pod::TRIALS,
    control::TRIALS,
    disk_pods::TRIALS,
    files::TRIALS,
    fs::TRIALS,
    jail::TRIALS,
    slots::TRIALS,
    tamper::TRIALS,
];

fn told_images(list: &OsStr) -> Result<[PathBuf; 2]> {
    let paths: Vec<PathBuf> = std::env::split_paths(list).collect();
    paths
        .try_into()
        .map_err(|paths| anyhow!("{AGENT} names {paths:?} instead of two images"))
}

fn trials(images: Option<(&Images, &PathBuf, &PathBuf)>, reruns: &Arc<Reruns>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for vmm in Vmm::ALL {
        let more = match vmm {
            Vmm::Qemu => &[],
            Vmm::Trefoil => OF_OURS,
        };
        for list in OF_BOTH.iter().chain(more) {
            for &(name, body) in *list {
                let setting = images.map(|(images, agent, pod)| Setting {
                    vmm,
                    images: images.clone(),
                    agent: agent.clone(),
                    pod: pod.clone(),
                });
                let name = format!("{}::{name}", vmm.name());
                let (called, reruns) = (name.clone(), reruns.clone());
                trials.push(Trial::test(name, move || match &setting {
                    Some(setting) => reruns
                        .attempt(&called, &|| body(setting), None)
                        .map_err(Failed::from),
                    None => Ok(()),
                }));
            }
        }
    }
    trials
}
