//! The source of random numbers.

use anyhow::{Result, ensure};

use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("rng::numbers_are_random", numbers_are_random),
    ("rng::reset", reset),
];

/// As far as can be seen: half of the bits are set, each byte occurs, and no two reads are alike.
fn numbers_are_random(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let bytes = 1 << 16;
    let mut sums = Vec::new();
    for _ in 0..3 {
        let read = guest.probe.random(bytes)?;
        let source = read.text("source")?;
        ensure!(source.starts_with("virtio_rng"), "the source is {source}");
        let (bits, values): (u64, u32) = (read.get("bits")?, read.get("values")?);
        let half = bytes * 8 / 2;
        // Ten standard deviations.
        ensure!(
            bits.abs_diff(half) < 3621,
            "{bits} bits are set, of {half} to be expected"
        );
        ensure!(values == 256, "{values} values of a byte occur");
        sums.push(read.get::<u64>("sum")?);
    }
    let [first, second, third] = sums.as_slice() else {
        return Ok(());
    };
    ensure!(
        first != second && second != third && first != third,
        "two reads are alike"
    );
    // Sizes that are no multiple of anything.
    for odd in [1, 3, 63, 65, 4097] {
        guest.probe.random(odd)?;
    }
    guest.power_off()
}

fn reset(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let devices = guest.probe.devices_of("virtio_rng")?;
    ensure!(devices.len() == 1, "there are {devices:?}");
    for device in &devices {
        for _ in 0..3 {
            guest.probe.random(1000)?;
            guest.probe.unbind("virtio_rng", device)?;
            guest.probe.bind("virtio_rng", device)?;
        }
    }
    guest.probe.random(1000)?;
    guest.power_off()
}
