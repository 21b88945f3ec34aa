//! The same pod in each isolation that there is, side by side, where a KVM boots Linux.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::guest::Images;
use rig::kvm::{self, Place};
use rig::test_vm::TestVm;
use rig::{Handler, Rig, containerd, images};

use super::{show, step, took};

/// What the demo is asked for when it runs in a test VM.
pub const ARGUMENT: &str = "isolations";

const HANDLERS: [Handler; 2] = [Handler::Trefoil, Handler::TrefoilVm];

/// What tells one kernel and machine from another, and the line of shell that asks.
const QUESTIONS: [(&str, &str); 5] = [
    ("uname -r", "uname -r"),
    (
        "/proc/cpuinfo",
        "sed -n 's/^model name.*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//'",
    ),
    (
        "hypervisor seen",
        "grep -qw hypervisor /proc/cpuinfo && echo yes || echo no",
    ),
    ("MemTotal", "sed -n 's/^MemTotal: *//p' /proc/meminfo"),
    ("hostname", "hostname"),
];

/// Runs the pods here, or in a test VM, and says where and why.
pub fn show_all() -> Result<ExitCode> {
    let images = Images::ensure()?;
    match kvm::place(&images)? {
        Place::Here => here(&images).map(|()| ExitCode::SUCCESS),
        Place::TestVm { .. } => {
            rig::prepare()?;
            let vm = TestVm {
                // containerd's root is in memory there.
                memory: 8192,
                limit: Some(Duration::from_secs(10 * 60)),
                environment: vec![
                    images.variable()?,
                    (kvm::VARIABLE.to_owned(), "here".to_owned()),
                ],
                hot: [&[containerd::shim_binary()], images.files().as_slice()].concat(),
                ..TestVm::default()
            };
            vm.run_again("demo", &[ARGUMENT.to_owned()])
        }
    }
}

fn here(guest: &Images) -> Result<()> {
    let rig = Rig::start()?;
    rig.install_guest(guest)?;
    rig.pull(images::BASE)?;
    let mut answers: Vec<Vec<String>> = Vec::new();
    let mut times = Vec::new();
    for handler in HANDLERS {
        let started = Instant::now();
        let pod = Pod::run(&rig, handler, PodSpec::default())
            .with_context(|| format!("running the pod with the handler {handler}"))?;
        let container = pod.start(&ContainerSpec::idle())?;
        times.push(took(started));
        let mut of_pod = Vec::new();
        for (_, line) in QUESTIONS {
            of_pod.push(
                container
                    .exec(&["sh", "-c", line])?
                    .text()?
                    .trim()
                    .to_owned(),
            );
        }
        of_pod.push(format!("{} on the node", pod.shim_side()?.len()));
        answers.push(of_pod);
        pod.stop()?;
        pod.remove()?;
    }
    step(
        "the same pod, another RuntimeClass",
        "its containers' own words, side by side",
    );
    let row = |what: &str, cells: &[&str]| {
        show(&format!(
            "{what:<21}{}",
            cells
                .iter()
                .map(|cell| format!("{cell:<44}"))
                .collect::<String>()
        ));
    };
    row("", &HANDLERS.map(Handler::name));
    row(
        "runp, create, start",
        &times.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let names = QUESTIONS.iter().map(|(name, _)| *name).chain(["processes"]);
    for (number, name) in names.enumerate() {
        let cells: Vec<&str> = answers
            .iter()
            .map(|of_pod| of_pod[number].as_str())
            .collect();
        row(name, &cells);
    }
    ensure!(
        answers[0][0] != answers[1][0],
        "both pods run on the kernel {}",
        answers[0][0]
    );
    let leftovers = rig.leftovers()?;
    ensure!(leftovers.is_empty(), "left behind:\n{leftovers}");
    Ok(())
}
