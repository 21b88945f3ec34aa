//! The files or devices behind the disk, and one system call for each thing that can be done with them.
//!
//! A disk that may be written is one of them. One that may only be read can be several, one after the
//! other: the layers of an image are one disk.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::fdatasync;

use super::examine::{Blocks, PAGE, examine};
use super::options::{Error, MOST_PARTS, SECTOR, SERIAL_SIZE};
use super::step::{Memory, Step, rw_flags};

/// `_IO(0x12, 119)`: discard a range.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// How many bytes one step reads or writes at most: enough for the largest request that Linux makes,
/// little enough that other devices don't notice.
pub const MOST_BYTES: usize = 2 << 20;
/// How many bytes one step zeroes in a file's metadata.
const MOST_IN_FILE: u64 = 256 << 20;
/// How many bytes one step zeroes on a device, which may have to write them.
const MOST_ON_DEVICE: u64 = 32 << 20;
/// How many bytes one step discards on a device.
const MOST_DISCARDED: u64 = 1 << 30;

/// Which of the ways to zero or to discard have not turned out to be unknown to the host.
#[derive(Clone, Copy, Debug)]
struct Known {
    punch: bool,
    zero: bool,
    discard: bool,
}

/// A file or device.
struct Part {
    file: File,
    /// Where on the disk it begins.
    at: u64,
    size: u64,
}

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the disk's files, from zero.
    pub part: u8,
    /// Where in it.
    pub at: u64,
    /// How many bytes it has from there on.
    pub left: u64,
}

/// The files or devices.
pub struct Disk {
    parts: Vec<Part>,
    is_device: bool,
    read_only: bool,
    size: u64,
    blocks: Blocks,
    serial: [u8; SERIAL_SIZE],
    known: Known,
    /// Each write is to be durable by itself.
    pub write_through: bool,
}

/// What is to become of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not needed; it may read as anything.
    Discard,
    /// It is to read as zeros, and may give its storage back.
    ZeroAndUnmap,
    /// It is to read as zeros, and to keep its storage.
    Zero,
}

const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: libc::c_int = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Zeros to be written. They are atomics so that they are not in the binary but in memory that is
/// given at start, all of it one page of the kernel's as long as nobody writes there.
#[repr(align(4096))]
struct Zeros([AtomicU64; ZEROS / 8]);
const ZEROS: usize = 1 << 20;
static NOTHING: Zeros = Zeros([const { AtomicU64::new(0) }; ZEROS / 8]);

impl Disk {
    /// Looks at what was opened.
    pub fn new(
        files: Vec<File>,
        read_only: bool,
        serial: [u8; SERIAL_SIZE],
    ) -> Result<Self, Error> {
        match files.len() {
            1 => {}
            2..=MOST_PARTS if read_only => {}
            count => return Err(Error::Parts(count)),
        }
        let mut parts = Vec::with_capacity(files.len());
        let mut size: u64 = 0;
        let mut is_device = false;
        let mut blocks: Option<Blocks> = None;
        for file in files {
            let (length, its) = examine(&file, read_only)?;
            blocks = Some(blocks.map_or(its.blocks, |blocks| blocks.and(its.blocks)));
            is_device = its.is_device;
            parts.push(Part {
                file,
                at: size,
                size: length,
            });
            size = size.checked_add(length).ok_or(Error::Sum)?;
        }
        let blocks = blocks.ok_or(Error::Parts(0))?;
        if !(SECTOR as u32..=PAGE).contains(&blocks.logical) || !blocks.logical.is_power_of_two() {
            return Err(Error::Block(blocks.logical));
        }
        for part in &parts {
            if !part.size.is_multiple_of(blocks.logical.into()) {
                return Err(Error::Size {
                    size: part.size,
                    block: blocks.logical,
                });
            }
        }
        let mut disk = Self {
            parts,
            is_device,
            read_only,
            size,
            blocks,
            serial,
            known: Known {
                punch: !read_only,
                zero: !read_only,
                discard: !read_only,
            },
            write_through: false,
        };
        if !read_only && !is_device {
            disk.try_punching();
        }
        Ok(disk)
    }

    /// Learns whether the file can have holes by making one behind its end, where nothing is.
    fn try_punching(&mut self) {
        let step = Step::Allocate {
            at: self.size.next_multiple_of(u64::from(PAGE)),
            length: u64::from(PAGE),
            mode: PUNCH,
        };
        if let Err(why) = self.perform(&step) {
            self.learn(&step, why);
        }
    }

    /// The files or devices, by the numbers of [`Place::part`].
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.parts.iter().map(|part| &part.file)
    }

    /// Where a byte of the disk is to be read from; `None` behind its end.
    pub fn place(&self, at: u64) -> Option<Place> {
        // The last one that begins there or before; empty ones have no bytes.
        let after = self.parts.partition_point(|part| part.at <= at);
        let number = after.checked_sub(1)?;
        let part = self.parts.get(number)?;
        let left = part.at.checked_add(part.size)?.checked_sub(at)?;
        (left > 0).then_some(Place {
            part: u8::try_from(number).ok()?,
            at: at - part.at,
            left,
        })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The sizes that matter for reading and writing well.
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Whether it may only be read.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Its serial number, filled up with zeros.
    pub fn serial(&self) -> &[u8; SERIAL_SIZE] {
        &self.serial
    }

    /// Whether discarding is worth trying.
    pub fn can_discard(&self) -> bool {
        match self.is_device {
            true => self.known.discard,
            false => self.known.punch,
        }
    }

    /// Where on the disk `length` bytes from a sector on are, if they are on it.
    pub fn range(&self, sector: u64, length: u64) -> Option<u64> {
        let at = sector.checked_mul(SECTOR)?;
        (at.checked_add(length)? <= self.size).then_some(at)
    }

    /// The next step, and its bytes, to do something with a range; `None` if the host can't.
    pub fn step(&self, fate: Fate, at: u64, length: u64) -> Option<(Step, u64)> {
        let most = match self.is_device {
            true => MOST_ON_DEVICE,
            false => MOST_IN_FILE,
        };
        let allocate = |mode| {
            let length = length.min(most);
            Some((Step::Allocate { at, length, mode }, length))
        };
        match fate {
            Fate::Discard if !self.can_discard() => None,
            Fate::Discard if self.is_device => {
                let length = length.min(MOST_DISCARDED);
                Some((Step::Discard { at, length }, length))
            }
            Fate::Discard => allocate(PUNCH),
            Fate::ZeroAndUnmap if self.known.punch => allocate(PUNCH),
            _ if self.known.zero => allocate(ZERO),
            _ => {
                let length = length.min(ZEROS as u64);
                let memory = Memory::One(libc::iovec {
                    iov_base: (&raw const NOTHING.0).cast_mut().cast(),
                    iov_len: usize::try_from(length).unwrap_or(ZEROS),
                });
                let durable = false;
                Some((
                    Step::Write {
                        at,
                        memory,
                        durable,
                    },
                    length,
                ))
            }
        }
    }

    /// Learns from a step that failed. `true` if another way may be tried for it.
    pub fn learn(&mut self, step: &Step, why: Errno) -> bool {
        if !matches!(why, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY) {
            return false;
        }
        match *step {
            Step::Allocate { mode: PUNCH, .. } => self.known.punch = false,
            Step::Allocate { .. } => self.known.zero = false,
            Step::Discard { .. } => self.known.discard = false,
            _ => return false,
        }
        true
    }

    /// Does a step, here and now. How many bytes were read or written, where it does that.
    pub fn perform(&self, step: &Step) -> Result<usize, Errno> {
        loop {
            match self.call(step) {
                Err(Errno::EINTR) => {}
                outcome => return outcome,
            }
        }
    }

    fn call(&self, step: &Step) -> Result<usize, Errno> {
        let number = match step {
            Step::Read { part, .. } => usize::from(*part),
            // What can be written is one file.
            _ => 0,
        };
        let file = &self.parts.get(number).ok_or(Errno::EBADF)?.file;
        let fd = file.as_raw_fd();
        // All of it is below the disk's size, which is one of the kernel's own signed numbers.
        let signed = |number: u64| libc::off_t::try_from(number).unwrap_or(libc::off_t::MAX);
        // Not more than was asked for, which is an isize's.
        let moved = |count: isize| Errno::result(count).map(isize::unsigned_abs);
        match step {
            Step::Read { at, memory, .. } => {
                let (pieces, count) = memory.pieces();
                // SAFETY: the pieces are writable memory: the guest's, or a test's.
                moved(unsafe { libc::preadv(fd, pieces, count, signed(*at)) })
            }
            Step::Write {
                at,
                memory,
                durable,
            } => {
                let (pieces, count) = memory.pieces();
                let flags = rw_flags(*durable);
                // SAFETY: the pieces are readable memory: the guest's, or our zeros.
                moved(unsafe { libc::pwritev2(fd, pieces, count, signed(*at), flags) })
            }
            Step::Flush => fdatasync(file).map(|()| 0),
            Step::Allocate { at, length, mode } => {
                let mode = FallocateFlags::from_bits_retain(*mode);
                fallocate(file, mode, signed(*at), signed(*length)).map(|()| 0)
            }
            Step::Discard { at, length } => {
                let range = [*at, *length];
                // SAFETY: the request reads two 64-bit numbers.
                Errno::result(unsafe { libc::ioctl(fd, BLKDISCARD, range.as_ptr()) }).map(|_| 0)
            }
        }
    }
}
