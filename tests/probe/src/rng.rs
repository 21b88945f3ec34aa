//! Random numbers from the host.

use std::fs::{self, File};
use std::io::Read;

use crate::request::{Outcome, While, Words, facts};

/// `rng BYTES`: reads so many from the device that the kernel uses, and says what can be seen of
/// their randomness: how many bits are set, how many values a byte had, and a number made of all.
pub(crate) fn read(words: &mut Words<'_>) -> Outcome {
    let mut left: usize = words.parse("how many bytes")?;
    words.end()?;
    let source = fs::read_to_string("/sys/class/misc/hw_random/rng_current")
        .during("reading which generator is used")?;
    let source = source.trim();
    let mut device = File::open("/dev/hwrng").during("opening /dev/hwrng")?;
    let mut seen = [false; 256];
    let (mut bits, mut sum) = (0u64, 0xcbf2_9ce4_8422_2325u64);
    let mut buffer = [0; 4096];
    while left > 0 {
        let part = left.min(buffer.len());
        let part = buffer.get_mut(..part).unwrap_or_default();
        let count = device
            .read(part)
            .during(format_args!("reading /dev/hwrng with {left} bytes to go"))?;
        if count == 0 {
            return Err(format!("/dev/hwrng ended with {left} bytes to go"));
        }
        for byte in part.iter().take(count) {
            bits += u64::from(byte.count_ones());
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            if let Some(seen) = seen.get_mut(usize::from(*byte)) {
                *seen = true;
            }
        }
        left -= count;
    }
    let values = seen.iter().filter(|seen| **seen).count();
    facts!(source = source, bits = bits, values = values, sum = sum)
}
