//! Disks that come while the guest runs, and go.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use rig::probe::Cache;
use trefoil_vmm::control::{Attach, Detach, Request};

use crate::vmm::machine::{Guest, Machine};
use crate::vmm::scratch::{Scratch, check};
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    (
        "slots::nothing_is_there_at_first",
        nothing_is_there_at_first,
    ),
    (
        "slots::several_files_come_as_one_disk",
        several_files_come_as_one_disk,
    ),
    (
        "slots::a_disk_goes_and_another_comes",
        a_disk_goes_and_another_comes,
    ),
    ("slots::all_at_once", all_at_once),
    ("slots::one_that_is_in_use_goes", one_that_is_in_use_goes),
];

const MIB: u64 = 1 << 20;

/// A machine with slots.
fn with_slots(setting: &Setting, count: u8) -> Result<(Machine, u8)> {
    let mut machine = setting.machine();
    machine.slots = count;
    let first = machine.first_slot()?;
    Ok((machine, first))
}

fn attach(guest: &mut Guest, device: u8, read_only: bool, files: &[File]) -> Result<()> {
    let disk = Attach {
        device,
        read_only,
        serial: format!("late-{device}"),
    };
    let (_, ours) = guest.parts()?;
    ours.attach(disk, files)
}

fn detach(guest: &mut Guest, device: u8) -> Result<()> {
    let (_, ours) = guest.parts()?;
    ours.ask(Request::Detach(Detach { device })).map(drop)
}

/// Has the guest's driver look at a slot again, or leave it.
fn tell(guest: &mut Guest, what: &str, device: u8) -> Result<()> {
    let driver = "/sys/bus/platform/drivers/virtio-mmio";
    guest
        .probe
        .ask(&format!("write {driver}/{what} virtio-mmio.{device}"))
        .map(drop)
}

/// The name of the disk in a slot.
fn disk(guest: &mut Guest, device: u8) -> Result<String> {
    let slot = format!("/sys/bus/platform/devices/virtio-mmio.{device}");
    let below = guest.probe.list(&slot)?;
    let virtio = below.iter().find(|name| name.starts_with("virtio"));
    let virtio = virtio.with_context(|| format!("{slot} has but {below:?}"))?;
    let mut names = guest.probe.list(&format!("{slot}/{virtio}/block"))?;
    ensure!(names.len() == 1, "{slot} has the disks {names:?}");
    Ok(names.remove(0))
}

/// A read-only file, or one that can be written, of so many MiB of a pattern.
fn file(scratch: &Scratch, name: &str, mib: u64, seed: u64, read_only: bool) -> Result<File> {
    let path = scratch.disk(name, mib * MIB, seed)?;
    let mut how = File::options();
    Ok(how.read(true).write(!read_only).open(path)?)
}

fn nothing_is_there_at_first(setting: &Setting) -> Result<()> {
    let (machine, first) = with_slots(setting, 2)?;
    let mut guest = machine.boot(setting.vmm)?;
    let disks = guest.probe.list("/sys/block")?;
    ensure!(disks.is_empty(), "there are the disks {disks:?}");
    for device in [first, first + 1] {
        let outcome = tell(&mut guest, "bind", device);
        rig::probe::failed(outcome, "ENODEV")?;
    }
    for (device, why) in [(first, "has no disk"), (first - 1, "is no slot for a disk")] {
        let error = detach(&mut guest, device)
            .err()
            .context("something is gone")?;
        ensure!(format!("{error:#}").contains(why), "{error:#}");
    }
    guest.power_off()
}

fn several_files_come_as_one_disk(setting: &Setting) -> Result<()> {
    const SIZE: u64 = 24;
    let scratch = Scratch::new()?;
    let (machine, device) = with_slots(setting, 1)?;
    let mut guest = machine.boot(setting.vmm)?;
    // One pattern goes on from each to the next, so that none is where another should be.
    let whole = fs::read(scratch.disk("whole", SIZE * MIB, 1)?)?;
    let mut rest = whole.as_slice();
    let mut files = Vec::new();
    for (number, sectors) in [2048, 1, 7, 30_000, 8, SIZE * 2048].into_iter().enumerate() {
        let length = rest.len().min(usize::try_from(sectors * 512)?);
        let (layer, after) = rest.split_at(length);
        rest = after;
        let path = scratch.path().join(format!("layer{number}"));
        fs::write(&path, layer)?;
        files.push(File::open(path)?);
    }
    attach(&mut guest, device, true, &files)?;
    drop(files);
    tell(&mut guest, "bind", device)?;
    let name = disk(&mut guest, device)?;
    let facts = guest.probe.disk_facts(&name)?;
    for (fact, value) in [
        ("size", (SIZE * MIB).to_string()),
        ("ro", "1".into()),
        ("serial", format!("late-{device}")),
    ] {
        let found = facts.text(fact)?;
        ensure!(found == value, "{fact} is {found} and not {value}");
    }
    for cache in [Cache::Bypassed, Cache::Used] {
        guest.probe.check_disk(&name, 0, SIZE * MIB, 1, cache)?;
    }
    guest.power_off()
}

fn a_disk_goes_and_another_comes(setting: &Setting) -> Result<()> {
    let scratch = Scratch::new()?;
    let (machine, device) = with_slots(setting, 1)?;
    let mut guest = machine.boot(setting.vmm)?;
    for round in 1..=4 {
        // What differs from one to the next is all that a driver is told once: size, and whether it
        // can be written.
        let read_only = round % 2 == 0;
        let size = round * 8;
        let path = scratch.disk(&format!("disk{round}"), size * MIB, round)?;
        let opened = File::options().read(true).write(!read_only).open(&path)?;
        attach(&mut guest, device, read_only, &[opened])?;
        tell(&mut guest, "bind", device)?;
        let name = disk(&mut guest, device)?;
        let probe = &mut guest.probe;
        let facts = probe.disk_facts(&name)?;
        ensure!(facts.get::<u64>("size")? == size * MIB, "{facts:?}");
        ensure!(
            facts.text("ro")? == u8::from(read_only).to_string(),
            "{facts:?}"
        );
        probe.check_disk(&name, 0, size * MIB, round, Cache::Bypassed)?;
        if !read_only {
            probe.write_disk(&name, 0, size * MIB, 100, Cache::Used)?;
            probe.discard(&name, 2 * MIB, MIB)?;
            probe.write_disk(&name, 2 * MIB, MIB, 100, Cache::Used)?;
            probe.flush_disk(&name)?;
        }
        tell(&mut guest, "unbind", device)?;
        detach(&mut guest, device)?;
        let seed = if read_only { round } else { 100 };
        check(&path, 0, size * MIB, seed)?;
        let disks = guest.probe.list("/sys/block")?;
        ensure!(disks.is_empty(), "there are the disks {disks:?}");
    }
    guest.power_off()
}

/// So many that some share an interrupt line, among them with the connection that the guest is told by
/// what to do; each with its own data, all at work in turn.
fn all_at_once(setting: &Setting) -> Result<()> {
    const COUNT: u8 = 24;
    let scratch = Scratch::new()?;
    let (machine, first) = with_slots(setting, COUNT)?;
    let mut guest = machine.boot(setting.vmm)?;
    // The last one first: slots are told apart by their number, not by the order of coming.
    for device in (first..first + COUNT).rev() {
        let file = file(&scratch, &format!("disk{device}"), 2, device.into(), true)?;
        attach(&mut guest, device, true, &[file])?;
        tell(&mut guest, "bind", device)?;
    }
    for device in first..first + COUNT {
        let name = disk(&mut guest, device)?;
        let seed = device.into();
        guest
            .probe
            .check_disk(&name, 0, 2 * MIB, seed, Cache::Bypassed)?;
    }
    guest.power_off()
}

/// Nothing is asked of a disk that has been taken away; its slot is as good as new for a driver that
/// begins anew.
fn one_that_is_in_use_goes(setting: &Setting) -> Result<()> {
    let scratch = Scratch::new()?;
    let (machine, device) = with_slots(setting, 1)?;
    let mut guest = machine.boot(setting.vmm)?;
    attach(
        &mut guest,
        device,
        true,
        &[file(&scratch, "one", 4, 1, true)?],
    )?;
    tell(&mut guest, "bind", device)?;
    let name = disk(&mut guest, device)?;
    guest.probe.check_disk(&name, 0, MIB, 1, Cache::Bypassed)?;
    detach(&mut guest, device)?;
    tell(&mut guest, "unbind", device)?;
    attach(
        &mut guest,
        device,
        true,
        &[file(&scratch, "two", 4, 2, true)?],
    )?;
    tell(&mut guest, "bind", device)?;
    let name = disk(&mut guest, device)?;
    guest
        .probe
        .check_disk(&name, 0, 4 * MIB, 2, Cache::Bypassed)?;
    guest.power_off()
}
