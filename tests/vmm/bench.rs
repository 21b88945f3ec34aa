//! What each VMM's devices transfer, and the memory each takes for it, in the same test VM in the same
//! run. Ours is the release build.
//!
//! Each round boots a machine of either VMM, in turn, and loads each device; what is compared is
//! the medians. A guest in a test VM runs many times slower than on a processor of its own, but both
//! guests do: the ratio is what counts.
//!
//! With `--icount` the test VM's clocks count instructions, a thousand million in a second, of all that
//! takes part: guest, VMM, the test VM's kernel and whoever is on the other side. That is the same on a
//! busy machine; but of such guests one in four stands still, whoever made it, and all is to be run
//! again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::guest::Images;
use rig::probe::{DiskLoad, Way, pattern};

use crate::vmm::lan::{At, GUEST, Lan, MAC};
use crate::vmm::machine::{Disk, Guest, Machine, Nic, Vmm};
use crate::vmm::scratch::Scratch;
use crate::vmm::{net, peers};

const MIB: u64 = 1 << 20;

/// Asks for clocks that count instructions.
pub const ICOUNT: &str = "--icount";

/// How many rounds, unless the command line says so.
const ROUNDS: usize = 5;

/// The guest's memory.
const GUEST_MEMORY: u64 = 128 * MIB;

/// The disk is as large as what is read from it.
const DISK: u64 = 128 * MIB;

const DISK_LOADS: [(&str, DiskLoad); 4] = [
    (
        "block: read, 128 KiB, 8 at a time",
        disk_load(Way::In, 128 << 10, 8, DISK, false),
    ),
    (
        "block: write, 128 KiB, 8 at a time",
        disk_load(Way::Out, 128 << 10, 8, DISK, false),
    ),
    (
        "block: read anywhere, 4 KiB, 32 at a time",
        disk_load(Way::In, 4096, 32, 32 * MIB, true),
    ),
    (
        "block: write anywhere, 4 KiB, 32 at a time",
        disk_load(Way::Out, 4096, 32, 32 * MIB, true),
    ),
];

const fn disk_load(way: Way, size: u32, depth: u32, bytes: u64, random: bool) -> DiskLoad {
    DiskLoad {
        way,
        size,
        depth,
        bytes,
        random,
    }
}

/// The most that our VMM may take for itself: processes' shares of pages (PSS), without what is the
/// guest's memory, with one virtual CPU and four devices.
const ALLOWED: u64 = 3 * MIB;

/// MiB per second, by load and VMM.
type Rates = BTreeMap<(usize, &'static str), Vec<f64>>;

/// Runs all loads and prints a table.
pub fn run(images: &Images) -> Result<ExitCode> {
    let mut words = rig::part::arguments().skip(1).filter(|word| word != ICOUNT);
    let rounds = match words.next() {
        Some(word) => word
            .parse()
            .context("usage: vmm bench [--icount] [rounds]")?,
        None => ROUNDS,
    };
    let mut rates = Rates::new();
    let mut names = Vec::new();
    let mut memory = BTreeMap::new();
    for round in 0..rounds {
        for vmm in Vmm::ALL {
            eprintln!("round {} of {rounds}: {}", round + 1, vmm.name());
            let (found, own) =
                loads(images, vmm).with_context(|| format!("with {}", vmm.name()))?;
            memory.insert(vmm.name(), own);
            names = found.iter().map(|(name, _)| *name).collect();
            for (number, (_, rate)) in found.into_iter().enumerate() {
                rates.entry((number, vmm.name())).or_default().push(rate);
            }
        }
    }
    print(&names, &rates);
    println!("\n| memory besides the guest's, PSS, 1 CPU and 4 devices | MiB |\n|---|---|");
    for (name, own) in &memory {
        println!("| {name} | {:.2} |", *own as f64 / MIB as f64);
    }
    let own = memory.get(Vmm::Trefoil.name()).copied().unwrap_or(u64::MAX);
    ensure!(
        own <= ALLOWED,
        "our VMM takes {own} bytes for itself; {ALLOWED} are allowed"
    );
    Ok(ExitCode::SUCCESS)
}

fn print(names: &[&str], rates: &Rates) {
    let mut head = "| MiB/s, median (least to most) |".to_owned();
    for vmm in Vmm::ALL {
        head.push_str(&format!(" {} |", vmm.name()));
    }
    println!(
        "{head} to QEMU |\n|---|{}---|",
        "---|".repeat(Vmm::ALL.len())
    );
    for (number, name) in names.iter().enumerate() {
        let mut line = format!("| {name} |");
        let mut last = 0.0;
        let mut first = None;
        for vmm in Vmm::ALL {
            let mut found = rates
                .get(&(number, vmm.name()))
                .cloned()
                .unwrap_or_default();
            found.sort_by(f64::total_cmp);
            let at = |index: usize| found.get(index).copied().unwrap_or(f64::NAN);
            last = at(found.len() / 2);
            first.get_or_insert(last);
            line.push_str(&format!(
                " {last:.1} ({:.1} to {:.1}) |",
                at(0),
                at(found.len().saturating_sub(1))
            ));
        }
        println!("{line} {:.2} |", last / first.unwrap_or(f64::NAN));
    }
}

/// One machine, all loads: their names and rates, and the VMM's own memory after them.
fn loads(images: &Images, vmm: Vmm) -> Result<(Vec<(&'static str, f64)>, u64)> {
    let scratch = Scratch::new()?;
    let lan = Lan::new()?;
    let mut machine = Machine::new(images);
    machine.console = false;
    machine.memory = u32::try_from(GUEST_MEMORY / MIB)?;
    machine.disks.push(Disk {
        // Not of holes: those are not read from anywhere.
        file: scratch.disk("disk", DISK, pattern::ZEROES + 1)?,
        read_only: false,
        serial: "bench".into(),
    });
    machine.nics.push(Nic {
        tap: lan.tap()?,
        mac: MAC,
        mtu: 1500,
    });
    let mut guest = machine.boot(vmm)?;
    let mut found = Vec::new();
    let disk = guest.disk("bench")?;
    for (name, load) in &DISK_LOADS {
        let rate = timed(load.bytes, || guest.probe.load_disk(&disk, load))?;
        found.push((*name, rate));
    }

    let interface = guest.interface(MAC)?;
    guest.probe.net_up(&interface, GUEST, 1500)?;
    let (stream, number) = net::accept(&lan, At::Host, &mut guest)?;
    for (name, way) in [
        ("net: TCP from the guest", Way::Out),
        ("net: TCP to the guest", Way::In),
    ] {
        found.push((
            name,
            stream_load(&mut guest, &stream, number, way, 64 * MIB)?,
        ));
    }

    let number = guest.probe.vsock_connect(2000, 1)?;
    let stream = guest.wires.accept(2000)?;
    for (name, way) in [
        ("vsock: from the guest", Way::Out),
        ("vsock: to the guest", Way::In),
    ] {
        found.push((
            name,
            stream_load(&mut guest, &stream, number, way, 128 * MIB)?,
        ));
    }
    let own = own_memory(guest.pid())?;
    guest.power_off()?;
    Ok((found, own))
}

/// What of a process's memory is not its guest's, in bytes: each page shared among all that have it.
fn own_memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))
        .with_context(|| format!("reading the memory map of process {pid}"))?;
    let (mut all, mut size, mut guests) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            // Ours is a file in memory; QEMU's has no name, and no other mapping is as large.
            (Some("Size:"), Some(kib)) => size = kib.parse::<u64>()? << 10,
            (Some("Pss:"), Some(kib)) if !(guests || size >= GUEST_MEMORY) => {
                all += kib.parse::<u64>()? << 10;
            }
            (Some(range), Some(_)) if range.contains('-') => {
                guests = line.contains("/memfd:guest");
            }
            _ => {}
        }
    }
    ensure!(all > 0, "process {pid} has no memory");
    Ok(all)
}

fn stream_load(
    guest: &mut Guest,
    stream: &std::fs::File,
    number: u32,
    way: Way,
    bytes: u64,
) -> Result<f64> {
    let mut load = |bytes| {
        let mut rate = 0.0;
        let guests = || {
            rate = timed(bytes, || guest.probe.load(number, way, bytes))?;
            Ok(())
        };
        match way {
            Way::Out => peers::beside(|| peers::drain(stream, bytes), guests),
            Way::In => peers::beside(|| peers::pour(stream, bytes), guests),
        }?;
        Ok(rate)
    };
    // The first fills caches and finds windows.
    load(bytes / 16).and_then(|_| load(bytes))
}

/// MiB per second by the guest's clock, which must not be faster than ours.
fn timed(bytes: u64, load: impl FnOnce() -> Result<Duration>) -> Result<f64> {
    let began = Instant::now();
    let there = load()?;
    let here = began.elapsed();
    ensure!(
        there <= here && there * 2 > here,
        "{there:?} went by in the guest, and {here:?} here"
    );
    Ok(bytes as f64 / MIB as f64 / there.as_secs_f64())
}
