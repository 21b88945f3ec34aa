//! Disks.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rig::probe::pattern::ZEROES;
use rig::probe::{Cache, DiskLoad, Facts, Way, failed};

use crate::vmm::machine::{Disk, Guest, Machine};
use crate::vmm::scratch::{Scratch, check};
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("block::facts", facts),
    ("block::patterns", patterns),
    ("block::read_only", read_only),
    ("block::several_disks", several_disks),
    ("block::discard_and_zero", discard_and_zero),
    ("block::flushed_data_survives", flushed_data_survives),
    ("block::many_requests_at_once", many_requests_at_once),
    ("block::reset", reset),
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const SERIAL: &str = "a-disk";

/// A machine with a disk, its file, and the directory of that.
fn with_disk(setting: &Setting, seed: u64, read_only: bool) -> Result<(Machine, PathBuf, Scratch)> {
    let scratch = Scratch::new()?;
    let file = scratch.disk("disk", SIZE, seed)?;
    let mut machine = setting.machine();
    machine.disks.push(Disk {
        file: file.clone(),
        read_only,
        serial: SERIAL.into(),
    });
    Ok((machine, file, scratch))
}

fn at_least(facts: &Facts, name: &str, least: u64) -> Result<()> {
    let value: u64 = facts.get(name)?;
    ensure!(value >= least, "{name} is {value}");
    Ok(())
}

fn facts(setting: &Setting) -> Result<()> {
    let (machine, _, _scratch) = with_disk(setting, ZEROES, false)?;
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk(SERIAL)?;
    let facts = guest.probe.disk_facts(&disk)?;
    for (name, value) in [
        ("size", SIZE.to_string().as_str()),
        ("ro", "0"),
        ("serial", SERIAL),
        ("logical_block_size", "512"),
        // Flushes are asked for only where they are said to matter.
        ("write_cache", "write-back"),
    ] {
        let found = facts.text(name)?;
        ensure!(found == value, "{name} is {found} and not {value}");
    }
    at_least(&facts, "discard_max_bytes", 1)?;
    at_least(&facts, "write_zeroes_max_bytes", 1)?;
    // Large requests can be made of small pages.
    at_least(&facts, "max_segments", 32)?;
    guest.power_off()
}

fn patterns(setting: &Setting) -> Result<()> {
    let (machine, file, _scratch) = with_disk(setting, 1, false)?;
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk(SERIAL)?;
    let probe = &mut guest.probe;
    for cache in [Cache::Used, Cache::Bypassed] {
        probe.check_disk(&disk, 0, SIZE, 1, cache)?;
    }
    // A block, two, one page, what begins and ends in one, what is large and odd, and the end.
    let parts = [
        (0, 512),
        (1024, 1024),
        (MIB, 4096),
        (2 * MIB + 512, 3584),
        (4 * MIB + 512, 5 * MIB + 1536),
        (16 * MIB, 16 * MIB),
        (SIZE - 512, 512),
    ];
    for (cache, seed) in [(Cache::Bypassed, 2), (Cache::Used, 3)] {
        for (offset, length) in parts {
            probe.write_disk(&disk, offset, length, seed, cache)?;
        }
        probe.flush_disk(&disk)?;
        for (offset, length) in parts {
            check(&file, offset, length, seed)?;
            for cache in [Cache::Bypassed, Cache::Used] {
                probe.check_disk(&disk, offset, length, seed, cache)?;
            }
        }
        // What is between is as it was.
        check(&file, 512, 512, 1)?;
        check(&file, MIB + 4096, MIB - 4096, 1)?;
        check(&file, 32 * MIB, 32 * MIB - 512, 1)?;
    }
    // There is nothing behind the end.
    failed(
        probe.check_disk(&disk, SIZE - 512, 1024, 3, Cache::Used),
        "UnexpectedEof",
    )?;
    failed(
        probe.write_disk(&disk, SIZE, 512, 3, Cache::Bypassed),
        "ENOSPC",
    )?;
    ensure!(file.metadata()?.len() == SIZE, "the file has grown");
    guest.power_off()
}

fn read_only(setting: &Setting) -> Result<()> {
    let (machine, file, _scratch) = with_disk(setting, 1, true)?;
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk(SERIAL)?;
    let probe = &mut guest.probe;
    ensure!(
        probe.disk_facts(&disk)?.text("ro")? == "1",
        "it can be written"
    );
    probe.check_disk(&disk, 0, SIZE, 1, Cache::Bypassed)?;
    // Linux itself refuses; a driver that doesn't is the property tests' matter.
    failed(
        probe.write_disk(&disk, 0, 4096, 2, Cache::Bypassed),
        "EPERM",
    )?;
    guest.power_off()?;
    check(&file, 0, SIZE, 1)
}

fn several_disks(setting: &Setting) -> Result<()> {
    let scratch = Scratch::new()?;
    let mut machine = setting.machine();
    for number in 1..=4 {
        machine.disks.push(Disk {
            file: scratch.disk(&format!("disk{number}"), number * MIB, number)?,
            read_only: number == 2,
            serial: format!("number-{number}"),
        });
    }
    let mut guest = machine.boot(setting.vmm)?;
    for number in 1..=4 {
        let disk = guest.disk(&format!("number-{number}"))?;
        let size: u64 = guest.probe.disk_facts(&disk)?.get("size")?;
        ensure!(size == number * MIB, "disk {number} has {size} bytes");
        guest
            .probe
            .check_disk(&disk, 0, size, number, Cache::Bypassed)?;
    }
    guest.power_off()
}

fn discard_and_zero(setting: &Setting) -> Result<()> {
    let (machine, file, _scratch) = with_disk(setting, 1, false)?;
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk(SERIAL)?;
    let probe = &mut guest.probe;
    let before = file.metadata()?.blocks() * 512;
    probe.discard(&disk, 8 * MIB, 8 * MIB)?;
    probe.flush_disk(&disk)?;
    let after = file.metadata()?.blocks() * 512;
    ensure!(
        after + 7 * MIB < before,
        "discarding 8 MiB has freed {} bytes",
        before.saturating_sub(after)
    );
    probe.zero(&disk, 24 * MIB + 512, 8 * MIB + 1024)?;
    probe.flush_disk(&disk)?;
    probe.check_disk(
        &disk,
        24 * MIB + 512,
        8 * MIB + 1024,
        ZEROES,
        Cache::Bypassed,
    )?;
    check(&file, 24 * MIB + 512, 8 * MIB + 1024, ZEROES)?;
    // The neighbours are as they were.
    for (from, to) in [
        (0, 8 * MIB),
        (16 * MIB, 24 * MIB + 512),
        (32 * MIB + 1536, SIZE),
    ] {
        probe.check_disk(&disk, from, to - from, 1, Cache::Bypassed)?;
    }
    guest.power_off()
}

/// What was flushed is in the file though the VMM is killed at that moment, and in the next guest.
fn flushed_data_survives(setting: &Setting) -> Result<()> {
    let (machine, file, _scratch) = with_disk(setting, 1, false)?;
    for (seed, cache) in [(2, Cache::Used), (3, Cache::Bypassed)] {
        let mut guest = machine.boot(setting.vmm)?;
        let disk = guest.disk(SERIAL)?;
        let probe = &mut guest.probe;
        probe.check_disk(&disk, 0, SIZE, seed - 1, Cache::Bypassed)?;
        probe.write_disk(&disk, 0, SIZE, seed, cache)?;
        probe.flush_disk(&disk)?;
        guest.kill()?;
        check(&file, 0, SIZE, seed)?;
    }
    Ok(())
}

fn many_requests_at_once(setting: &Setting) -> Result<()> {
    let (mut machine, file, _scratch) = with_disk(setting, ZEROES, false)?;
    (machine.cpus, machine.most_cpus) = (2, 2);
    let mut guest = machine.boot(setting.vmm)?;
    let disk = guest.disk(SERIAL)?;
    for depth in [1, 7, 256] {
        for (way, size) in [(Way::Out, 4096), (Way::In, 4096), (Way::In, 256 << 10)] {
            let load = DiskLoad {
                way,
                size,
                depth,
                bytes: 16 * MIB,
                random: true,
            };
            guest.probe.load_disk(&disk, &load)?;
        }
    }
    guest.probe.write_disk(&disk, 0, SIZE, 5, Cache::Used)?;
    guest.probe.flush_disk(&disk)?;
    check(&file, 0, SIZE, 5)?;
    guest.power_off()
}

fn reset(setting: &Setting) -> Result<()> {
    let (machine, file, _scratch) = with_disk(setting, 1, false)?;
    let mut guest = machine.boot(setting.vmm)?;
    let device = virtio_device_of(&mut guest)?;
    for seed in 2..5 {
        guest.probe.unbind("virtio_blk", &device)?;
        guest.probe.bind("virtio_blk", &device)?;
        let disk = guest.disk(SERIAL)?;
        let probe = &mut guest.probe;
        probe.check_disk(&disk, 0, MIB, seed - 1, Cache::Bypassed)?;
        probe.write_disk(&disk, 0, MIB, seed, Cache::Bypassed)?;
        probe.flush_disk(&disk)?;
        check(&file, 0, MIB, seed)?;
    }
    guest.power_off()
}

fn virtio_device_of(guest: &mut Guest) -> Result<String> {
    let mut devices = guest.probe.devices_of("virtio_blk")?;
    ensure!(devices.len() == 1, "there are {devices:?}");
    Ok(devices.remove(0))
}
