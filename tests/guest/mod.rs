//! The guest kernel and the guest image, booted on a real KVM by QEMU.
//!
//!     trefoil-test guest [part of a trial's name]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use rig::guest::{Guest, Images};
use rig::kvm::{self, Place};
use rig::rerun::Reruns;
use rig::test_vm::TestVm;

type Body = fn(&Images) -> Result<()>;

const TRIALS: &[(&str, Body)] = &[
    ("guest::ready", ready),
    ("guest::no_console", no_console),
    ("guest::eight_cpus", eight_cpus),
    ("guest::small_memory", small_memory),
    ("guest::large_memory", large_memory),
    ("guest::nothing_is_wrong", nothing_is_wrong),
    ("guest::init_is_small", init_is_small),
    ("guest::panic_is_reported", panic_is_reported),
    ("guest::ends_with_its_connection", ends_with_its_connection),
    ("guest::hang_is_reported", hang_is_reported),
    ("guest::many_in_a_row", many_in_a_row),
];

pub fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_iter(rig::part::named());
    // One guest at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        libtest_mimic::run(&arguments, trials(None, &Arc::default())).exit();
    }
    let images = Images::ensure()?;
    if let Place::TestVm { .. } = kvm::place(&images)? {
        let vm = TestVm {
            memory: 8192,
            ..TestVm::default()
        };
        return kvm::again_in_vm("guest", vm, &images);
    }
    let reruns = Arc::new(Reruns::default());
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&images), &reruns));
    reruns.tell();
    Ok(conclusion.exit_code())
}

fn trials(images: Option<&Images>, reruns: &Arc<Reruns>) -> Vec<Trial> {
    TRIALS
        .iter()
        .map(|&(name, body)| {
            let (images, reruns) = (images.cloned(), reruns.clone());
            Trial::test(name, move || match &images {
                Some(images) => reruns
                    .attempt(name, &|| body(images), None)
                    .map_err(Failed::from),
                None => Ok(()),
            })
        })
        .collect()
}

fn ready(images: &Images) -> Result<()> {
    let (guest, ready) = Guest::new(images.clone()).boot()?;
    ensure!(ready.tsc > 0, "the guest's time stamp counter stands still");
    let status = guest.power_off()?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

fn no_console(images: &Images) -> Result<()> {
    let guest = Guest {
        console: false,
        ..Guest::new(images.clone())
    };
    guest.boot()?.0.power_off()?;
    Ok(())
}

fn eight_cpus(images: &Images) -> Result<()> {
    let guest = Guest {
        cpus: 8,
        ..Guest::new(images.clone())
    };
    let (mut guest, _) = guest.boot()?;
    let log = guest.log()?;
    ensure!(
        log.contains("Brought up 1 node, 8 CPUs"),
        "the kernel says of its CPUs: {}",
        lines_with(&log, "smp")
    );
    guest.power_off()?;
    Ok(())
}

fn small_memory(images: &Images) -> Result<()> {
    let guest = Guest {
        memory: 32,
        ..Guest::new(images.clone())
    };
    guest.boot()?.0.power_off()?;
    Ok(())
}

/// Above 3 GiB memory goes on after a hole.
fn large_memory(images: &Images) -> Result<()> {
    let guest = Guest {
        memory: 4096,
        ..Guest::new(images.clone())
    };
    guest.boot()?.0.power_off()?;
    Ok(())
}

fn nothing_is_wrong(images: &Images) -> Result<()> {
    let (mut guest, _) = Guest::new(images.clone()).boot()?;
    let log = guest.log()?;
    guest.power_off()?;
    for bad in ["WARNING: CPU", "BUG:", "Call Trace", "trefoil-init:"] {
        ensure!(
            !log.contains(bad),
            "the kernel says:\n{}",
            lines_with(&log, bad)
        );
    }
    Ok(())
}

/// At most 2 MB resident, as the init itself says, and 1.5 MB of the image.
fn init_is_small(images: &Images) -> Result<()> {
    let (guest, ready) = Guest::new(images.clone()).boot()?;
    guest.power_off()?;
    let resident = ready.resident;
    ensure!(
        resident > 0 && resident <= 2 << 20,
        "the init has {resident} bytes resident"
    );
    let size = std::fs::metadata(&images.image)?.len();
    ensure!(size <= 1_500_000, "the image has {size} bytes");
    Ok(())
}

fn panic_is_reported(images: &Images) -> Result<()> {
    let guest = Guest {
        more_words: "rdinit=/nothing".into(),
        ..Guest::new(images.clone())
    };
    fails(&guest, &["ended", "Kernel panic - not syncing"])
}

fn hang_is_reported(images: &Images) -> Result<()> {
    // Where KVM is emulated and other test VMs run, a kernel took ten seconds to say
    // what processor it is on.
    let seconds = if rig::test_vm::inside() { 45 } else { 15 };
    let guest = Guest {
        // It panics, and stays.
        more_words: "rdinit=/nothing panic=0".into(),
        limit: Duration::from_secs(seconds),
        ..Guest::new(images.clone())
    };
    fails(
        &guest,
        &[&format!("not ready after {seconds}s"), "Kernel panic"],
    )
}

/// A guest that can't become ready is an error that says these.
fn fails(guest: &Guest, parts: &[&str]) -> Result<()> {
    let error = guest.boot().err();
    let error = error.context("a guest without an init is ready")?;
    let text = format!("{error:#}");
    for part in parts {
        ensure!(
            text.contains(part),
            "the error says nothing of {part:?}: {text}"
        );
    }
    Ok(())
}

/// A host that is gone needs no guest.
fn ends_with_its_connection(images: &Images) -> Result<()> {
    Guest::new(images.clone()).boot()?.0.hang_up()?;
    Ok(())
}

/// Fewer where KVM is emulated, as the trials before have booted some, too.
fn many_in_a_row(images: &Images) -> Result<()> {
    let count = if rig::test_vm::inside() { 3 } else { 10 };
    for number in 0..count {
        let guest = Guest::new(images.clone()).boot();
        guest
            .and_then(|(guest, _)| guest.power_off())
            .with_context(|| format!("boot number {number}"))?;
    }
    Ok(())
}

fn lines_with(text: &str, part: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(part)).collect();
    lines.join("\n")
}
