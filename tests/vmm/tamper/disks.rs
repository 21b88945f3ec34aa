//! Disks that are not what the policy says.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use super::guest::{Guest, ID, LATE};
use super::refused;
use crate::vmm::Setting;

/// A change of the sound disk, and what is said of it.
type Case = (&'static str, fn(&Guest, &mut Vec<u8>), &'static str);

const ABOVE: &str = "layer 2 of container web: block 0 does not match";
const BELOW: &str = "layer 1 of container web: block 0 does not match";
const TREE_ABOVE: &str = "of its hash tree does not match";

/// What is read when layers are mounted.
const CASES: &[Case] = &[
    (
        "the upper layer's superblock",
        |_, disk| disk[1024 + 80] ^= 1,
        ABOVE,
    ),
    (
        "the upper layer's magic",
        |_, disk| disk[1024] ^= 0x80,
        ABOVE,
    ),
    ("the first byte of all", |_, disk| disk[0] ^= 1, ABOVE),
    (
        "the lower layer's superblock",
        |guest, disk| disk[above(guest) + 1024 + 80] ^= 1,
        BELOW,
    ),
    (
        "the root of the upper layer's tree",
        |guest, disk| {
            let at = guest.layers[0].tree();
            disk[at] ^= 1;
        },
        TREE_ABOVE,
    ),
    (
        "the root of the lower layer's tree",
        |guest, disk| {
            let at = above(guest) + guest.layers[1].tree();
            disk[at + 31] ^= 0x40;
        },
        "layer 1 of container web: block",
    ),
    (
        "a tree of another salt",
        |guest, disk| {
            let at = guest.layers[0].tree();
            disk[at..at + 4096].fill(0x5a);
        },
        TREE_ABOVE,
    ),
    (
        "nothing but zeros",
        |_, disk| disk.fill(0),
        "layer 2 of container web: block",
    ),
    (
        "layers in the other order",
        |guest, disk| {
            let [above, below] = guest.layers.clone();
            *disk = [below.bytes, above.bytes].concat();
        },
        "layer 2 of container web: block",
    ),
    (
        "the upper layer twice",
        |guest, disk| {
            let above = guest.layers[0].bytes.clone();
            let length = disk.len();
            *disk = above.repeat(length / above.len() + 1);
            disk.truncate(length);
        },
        "layer 1 of container web: block",
    ),
    (
        "all of it a block later",
        |_, disk| disk.rotate_right(4096),
        "layer 2 of container web: block",
    ),
    (
        "all of it a sector earlier",
        |_, disk| disk.rotate_left(512),
        "layer 2 of container web: block",
    ),
    (
        "the end is missing",
        |guest, disk| disk.truncate(above(guest) + 4096),
        "make partition 2",
    ),
    (
        "a disk of one sector",
        |_, disk| disk.truncate(512),
        "make partition 1",
    ),
    (
        "another image",
        |_, disk| {
            for (at, byte) in disk.iter_mut().enumerate() {
                *byte = (at * 7 % 251) as u8;
            }
        },
        "layer 2 of container web: block",
    ),
];

fn above(guest: &Guest) -> usize {
    guest.layers[0].bytes.len()
}

/// Disks of all kinds, one after the other in the same slots; then the sound one.
pub fn other_disks(setting: &Setting) -> Result<()> {
    let mut guest = Guest::boot_and_set_up(setting)?;
    for (what, change, said) in CASES {
        let mut disk = guest.sound_disk();
        change(&guest, &mut disk);
        guest.attach(1, &disk)?;
        refused(what, guest.create(|_| {}), &[said])?;
        guest.nothing_runs()?;
        guest.detach(1).with_context(|| format!("after {what}"))?;
    }
    println!("{} disks were refused, each for its block", CASES.len());
    guest.attach_sound()?;
    guest.runs()?;
    // What was once verified is another one later.
    guest.detach(0)?;
    let mut disk = guest.sound_disk();
    disk[1024 + 80] ^= 1;
    guest.attach(0, &disk)?;
    refused(
        "a disk in the place of one that was sound",
        guest.create(|_| {}),
        &[ABOVE],
    )?;
    guest.hang_up()
}

/// A block changes while the container runs, before anybody has read it.
pub fn one_that_changes(setting: &Setting) -> Result<()> {
    let mut guest = Guest::boot_and_set_up(setting)?;
    let file = guest.attach_sound()?;
    let mut ends = guest.create_sound()?;
    guest.pod.start(ID)?;
    let at = guest.layers[0].place(LATE)?;
    let file = File::options().write(true).open(file)?;
    file.write_all_at(b"X", at as u64)?;
    // The guest may be gone before it is asked.
    drop(ends.input(b"go on\n"));
    let said = ends.output().unwrap_or_default();
    ensure!(
        !said.contains("nobody noticed") && !said.contains("ead when it is"),
        "what the host has changed was read: {said:?}"
    );
    let block = at / 4096;
    guest.ends(&format!(
        "layer 2 of container web: block {block} does not match"
    ))
}

/// How many bits are flipped, each in a guest of its own.
const BITS: usize = 4;

/// A bit anywhere in what a container reads: nothing of the block is ever read.
pub fn random_bits(setting: &Setting) -> Result<()> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..BITS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut guest = Guest::boot_and_set_up(setting)?;
        let mut disk = guest.sound_disk();
        // Of the shell, which is read from its beginning on.
        let shell = above(&guest) + guest.layers[1].place("\x7fELF")?;
        let at = shell + usize::try_from(seed >> 33)? % 4096;
        disk[at] ^= 1 << (seed % 8);
        guest.attach(1, &disk)?;
        let block = (at - above(&guest)) / 4096;
        let said = format!("layer 1 of container web: block {block} does not match");
        let started = guest.create_sound().and_then(|mut ends| {
            guest.pod.start(ID)?;
            ends.output()
        });
        if let Ok(output) = started {
            ensure!(
                output.is_empty(),
                "a program with bit {at} flipped says {output:?}"
            );
        }
        guest
            .ends(&said)
            .with_context(|| format!("byte {at} of the disk"))?;
    }
    Ok(())
}
