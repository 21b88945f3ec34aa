//! Disks, by the name that the kernel gave them.

mod aligned;
pub(crate) mod load;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use trefoil_probe::pattern;

use crate::request::{Answer, Outcome, While, Words, facts};
use aligned::Aligned;

/// How much is read or written at once: more than one request of any driver.
const CHUNK: usize = 1 << 20;

mod calls {
    //! What the kernel's `linux/fs.h` names `BLK...`.
    nix::ioctl_none_bad!(drop_cache, nix::request_code_none!(0x12, 97));
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(zero, nix::request_code_none!(0x12, 127), [u64; 2]);
}

fn open(disk: &str, write: bool, direct: bool) -> Result<File, String> {
    OpenOptions::new()
        .read(!write)
        .write(write)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(format!("/dev/{disk}"))
        .during(format_args!("opening {disk}"))
}

/// `block-facts DISK`: sizes in bytes, unless the kernel's name of one says KiB.
pub(crate) fn facts_of(words: &mut Words<'_>) -> Outcome {
    let disk = words.word("a disk")?;
    words.end()?;
    let read = |file: &str| {
        let path = format!("/sys/block/{disk}/{file}");
        let text = fs::read_to_string(&path).during(format_args!("reading {path}"))?;
        Ok::<_, String>(text.trim().replace(' ', "-"))
    };
    let sectors: u64 = read("size")?
        .parse()
        .map_err(|_| format!("the size of {disk} is no number"))?;
    facts!(
        size = sectors * 512,
        ro = read("ro")?,
        serial = read("serial")?,
        logical_block_size = read("queue/logical_block_size")?,
        physical_block_size = read("queue/physical_block_size")?,
        discard_max_bytes = read("queue/discard_max_bytes")?,
        discard_granularity = read("queue/discard_granularity")?,
        write_zeroes_max_bytes = read("queue/write_zeroes_max_bytes")?,
        write_cache = read("queue/write_cache")?,
        max_segments = read("queue/max_segments")?,
        max_segment_size = read("queue/max_segment_size")?,
        max_sectors_kb = read("queue/max_sectors_kb")?,
        nr_requests = read("queue/nr_requests")?,
    )
}

/// The part of a disk that a request is about.
struct Part<'a> {
    disk: &'a str,
    offset: u64,
    length: u64,
}

impl<'a> Part<'a> {
    fn parse(words: &mut Words<'a>) -> Result<Self, String> {
        Ok(Self {
            disk: words.word("a disk")?,
            offset: words.parse("an offset")?,
            length: words.parse("a length")?,
        })
    }

    /// Calls `with` for each chunk with its offset.
    fn chunks(
        &self,
        mut with: impl FnMut(&mut [u8], u64) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut buffer = Aligned::new(CHUNK)?;
        let mut done = 0;
        while done < self.length {
            let part = (self.length - done).min(CHUNK as u64);
            let part = buffer.get_mut(..part as usize).unwrap_or_default();
            with(part, self.offset + done)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

/// `block-write DISK OFFSET LENGTH SEED [direct]`: the seed's pattern as it is at that offset.
/// What isn't direct may be in the kernel's cache until it is flushed.
pub(crate) fn write(words: &mut Words<'_>) -> Outcome {
    let direct = words.flag("direct");
    let part = Part::parse(words)?;
    let seed: u64 = words.parse("a seed")?;
    words.end()?;
    let file = open(part.disk, true, direct)?;
    part.chunks(|bytes, at| {
        pattern::fill(seed, at, bytes);
        file.write_all_at(bytes, at)
            .during(format_args!("writing {} from {at} on", part.disk))
    })?;
    Answer::done()
}

/// `block-check DISK OFFSET LENGTH SEED [direct]`: whether it is the seed's pattern. It is read
/// from the disk and not from the kernel's cache; `direct` into our memory at once.
pub(crate) fn check(words: &mut Words<'_>) -> Outcome {
    let direct = words.flag("direct");
    let part = Part::parse(words)?;
    let seed: u64 = words.parse("a seed")?;
    words.end()?;
    let file = open(part.disk, false, direct)?;
    if !direct {
        // SAFETY: the call takes no argument and touches no memory of ours.
        unsafe { calls::drop_cache(file.as_raw_fd()) }
            .during(format_args!("dropping the cache of {}", part.disk))?;
    }
    part.chunks(|bytes, at| {
        file.read_exact_at(bytes, at)
            .during(format_args!("reading {} from {at} on", part.disk))?;
        pattern::check(seed, at, bytes)
            .map_err(|difference| format!("{} is not the pattern: {difference}", part.disk))
    })?;
    Answer::done()
}

/// `block-flush DISK`: `fsync`.
pub(crate) fn flush(words: &mut Words<'_>) -> Outcome {
    let disk = words.word("a disk")?;
    words.end()?;
    open(disk, true, false)?
        .sync_all()
        .during(format_args!("flushing {disk}"))?;
    Answer::done()
}

/// `block-discard DISK OFFSET LENGTH`
pub(crate) fn discard(words: &mut Words<'_>) -> Outcome {
    let part = Part::parse(words)?;
    words.end()?;
    let file = open(part.disk, true, false)?;
    // SAFETY: the call reads two numbers, and gets them.
    unsafe { calls::discard(file.as_raw_fd(), &[part.offset, part.length]) }
        .during(format_args!("discarding a part of {}", part.disk))?;
    Answer::done()
}

/// `block-zero DISK OFFSET LENGTH`: leaves the zeroes to the disk, where it can make them.
pub(crate) fn zero(words: &mut Words<'_>) -> Outcome {
    let part = Part::parse(words)?;
    words.end()?;
    let file = open(part.disk, true, false)?;
    // SAFETY: the call reads two numbers, and gets them.
    unsafe { calls::zero(file.as_raw_fd(), &[part.offset, part.length]) }
        .during(format_args!("zeroing a part of {}", part.disk))?;
    Answer::done()
}
