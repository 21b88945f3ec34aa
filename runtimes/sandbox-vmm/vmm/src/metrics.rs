//! Counts and latencies, in one fixed struct in memory that the parent maps and reads while the
//! guest runs; nobody is asked and nothing stops.
//!
//! Every field is a 64-bit counter in the machine's byte order. [`Metrics::version`] changes
//! whenever the meaning or the place of a field does.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::memfd::MFdFlags;
use nix::time::ClockId;

use crate::layout::MAX_DEVICES;
use crate::memfd::sealed;

/// The struct's version.
pub const VERSION: u64 = 1;

/// How many classes of latency are told apart: below 1 µs, 2 µs, 4 µs and so on; the last is open.
pub const LATENCIES: usize = 24;

/// A number that only grows, but where it says otherwise.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes off it: for a number of what is there now.
    pub fn take(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long requests took.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Latency {
    /// All of them together, in nanoseconds.
    pub nanoseconds: Counter,
    /// How many took less than 1 µs, 2 µs, 4 µs and so on.
    pub below: [Counter; LATENCIES],
}

impl Latency {
    /// Counts one request.
    pub fn count(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.add(nanoseconds);
        let microseconds = nanoseconds / 1000;
        let class = (u64::BITS - microseconds.leading_zeros()) as usize;
        if let Some(class) = self.below.get(class.min(LATENCIES - 1)) {
            class.add(1);
        }
    }
}

/// What is counted of one device. A device without a meaning for a field leaves it at zero.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Device {
    /// The virtio device number, or zero where there is no device.
    pub kind: Counter,
    /// How often the driver kicked.
    pub kicks: Counter,
    /// How often the driver was interrupted.
    pub interrupts: Counter,
    /// Reads and writes of its registers.
    pub registers: Counter,
    /// Requests or packets from the guest.
    pub requests: Counter,
    /// Bytes from the guest.
    pub bytes_out: Counter,
    /// Packets to the guest.
    pub packets_in: Counter,
    /// Bytes to the guest.
    pub bytes_in: Counter,
    /// Requests that failed, and packets that were dropped.
    pub failures: Counter,
    /// How often the guest broke the device's rules so that it has to be reset.
    pub broken: Counter,
    /// Connections or requests under way now.
    pub open: Counter,
    /// How long requests took.
    pub latency: Latency,
}

/// Why virtual CPUs came out of the guest.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Exits {
    /// A port was read.
    pub port_in: Counter,
    /// A port was written.
    pub port_out: Counter,
    /// A device's register was read.
    pub register_read: Counter,
    /// A device's register was written.
    pub register_write: Counter,
    /// A read or write of an address where nothing is.
    pub nothing_there: Counter,
    /// A signal of ours, to pause or end.
    pub interrupted: Counter,
    /// Anything else.
    pub other: Counter,
}

/// When things had been done: nanoseconds of `CLOCK_MONOTONIC`, as [`now`] tells it, so that a
/// parent can compare them with its own. Zero: not yet.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Phases {
    /// The process's own code had begun.
    pub began: Counter,
    /// The configuration had been read.
    pub configured: Counter,
    /// The memory and the virtual machine had been made.
    pub machine: Counter,
    /// The devices and the virtual CPUs had been made.
    pub devices: Counter,
    /// The kernel had been put into memory.
    pub loaded: Counter,
    /// The jail had been closed, but for the threads' filters.
    pub jailed: Counter,
    /// The first virtual CPU was about to run.
    pub running: Counter,
}

/// The time, in nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    // It can't fail: every kernel has this clock. What it counts in fits for 500 years.
    ClockId::CLOCK_MONOTONIC.now().map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// All of it.
#[derive(Debug)]
#[repr(C)]
pub struct Metrics {
    /// [`VERSION`].
    pub version: Counter,
    /// Of the start.
    pub phases: Phases,
    /// Of all virtual CPUs together.
    pub exits: Exits,
    /// By number, as in the configuration.
    pub devices: [Device; MAX_DEVICES],
}

/// Makes a file for the struct, to be mapped by a parent and handed to its machine, who can't have
/// it shrink under the parent's eyes.
pub fn file() -> std::io::Result<OwnedFd> {
    let file = sealed("metrics", size_of::<Metrics>() as u64, MFdFlags::empty())?;
    Ok(file.into())
}

/// The struct in memory that may be shared with another process.
#[derive(Debug)]
pub struct Shared {
    metrics: *const Metrics,
}

// SAFETY: all fields are atomics.
unsafe impl Send for Shared {}
// SAFETY: all fields are atomics.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the struct in a file of at least its size, or memory of our own without one.
    pub fn map(file: Option<&OwnedFd>) -> std::io::Result<Arc<Self>> {
        let length = size_of::<Metrics>();
        let (flags, fd) = match file {
            Some(file) => {
                use std::os::fd::AsRawFd;
                let size = File::from(file.try_clone()?).metadata()?.len();
                if size < length as u64 {
                    return Err(std::io::Error::other(format!(
                        "the file for the metrics has {size} bytes, not {length}"
                    )));
                }
                (libc::MAP_SHARED, file.as_raw_fd())
            }
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let shared = Self {
            metrics: address.cast(),
        };
        shared.version.set(VERSION);
        Ok(Arc::new(shared))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and nobody has a reference any more.
        unsafe { libc::munmap(self.metrics.cast_mut().cast(), size_of::<Metrics>()) };
    }
}

impl Deref for Shared {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        // SAFETY: the mapping is as large as the struct, page-aligned, all zero at first, which is a
        // value of it, and lives as long as we do.
        unsafe { &*self.metrics }
    }
}

/// One device's part of the struct.
#[derive(Clone, Debug)]
pub struct DeviceMetrics {
    shared: Arc<Shared>,
    number: usize,
}

impl DeviceMetrics {
    /// The part of the device with this number, which is below [`MAX_DEVICES`].
    pub fn new(shared: &Arc<Shared>, number: usize) -> Self {
        Self {
            shared: Arc::clone(shared),
            number: number.min(MAX_DEVICES - 1),
        }
    }
}

impl Deref for DeviceMetrics {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.shared.devices[self.number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_classes() {
        let latency = Latency::default();
        for micros in [0, 1, 2, 3, 4, 1 << 40] {
            latency.count(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = latency.below.iter().map(Counter::get).collect();
        assert_eq!(counts[..4], [1, 1, 2, 1]);
        assert_eq!(counts[LATENCIES - 1], 1);
    }

    #[test]
    fn a_file_is_shared_and_a_small_one_refused() {
        let file = tempfile::tempfile().expect("file");
        let fd = OwnedFd::from(file.try_clone().expect("clone"));
        let why = Shared::map(Some(&fd)).expect_err("empty");
        assert!(why.to_string().contains("0 bytes"), "{why}");
        let fd = super::file().expect("file");
        let file = File::from(fd.try_clone().expect("clone"));
        file.set_len(0).expect_err("it can't shrink");
        let ours = Shared::map(Some(&fd)).expect("map");
        let theirs = Shared::map(Some(&fd)).expect("map");
        DeviceMetrics::new(&ours, 2).kicks.add(3);
        assert_eq!(theirs.devices[2].kicks.get(), 3);
        assert_eq!(theirs.version.get(), VERSION);
    }
}
