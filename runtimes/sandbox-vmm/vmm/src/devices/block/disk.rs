//! The files or devices behind the disk: what they are like, and one system call for each thing that
//! can be done with them.
//!
//! A disk that may be written is one of them. One that may only be read can be several, one after the
//! other: the layers of an image are one disk.

use std::fs::File;
use std::io::Error as IoError;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::unistd::fdatasync;

use super::options::{Error, MOST_PARTS, SECTOR, SERIAL_SIZE};

/// `_IOR(0x12, 114, size_t)`: a device's size in bytes.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;
/// `_IO(0x12, 119)`: discard a range.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// Linux's page, the largest logical block its drivers take.
const PAGE: u32 = 4096;
/// How many bytes one step reads or writes at most: enough for the largest request that Linux makes,
/// little enough that other devices don't notice.
pub const MOST_BYTES: usize = 2 << 20;
/// How many bytes one step zeroes in a file's metadata.
const MOST_IN_FILE: u64 = 256 << 20;
/// How many bytes one step zeroes on a device, which may have to write them.
const MOST_ON_DEVICE: u64 = 32 << 20;
/// How many bytes one step discards on a device.
const MOST_DISCARDED: u64 = 1 << 30;

/// The sizes that matter for reading and writing well, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// The smallest unit that can be read or written.
    pub logical: u32,
    /// The smallest unit that is written without reading something first.
    pub physical: u32,
    /// The least that is worth reading or writing.
    pub least: u32,
    /// The best size to read or write; 0 is unknown.
    pub best: u32,
}

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

/// Memory that a step reads into or writes from.
#[derive(Clone, Copy, Debug)]
pub enum Memory {
    /// One piece.
    One(libc::iovec),
    /// Several, in an array that stays where and what it is until the step is done.
    Many {
        /// The array.
        pieces: *const libc::iovec,
        /// How many there are.
        count: u32,
        /// How many bytes they are together.
        length: usize,
    },
}

// SAFETY: addresses of memory that is tied to no thread; who follows them promises that it is there.
unsafe impl Send for Memory {}

/// One thing to do with the disk.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Read from `at` of a part into the memory.
    Read {
        /// Which of the disk's files.
        part: u8,
        /// Where in it.
        at: u64,
        /// Where to.
        memory: Memory,
    },
    /// Write the memory to `at`.
    Write {
        /// Where on the disk.
        at: u64,
        /// Where from.
        memory: Memory,
        /// Whether it is to be durable when it is done.
        durable: bool,
    },
    /// Make durable what was written.
    Flush,
    /// `fallocate`.
    Allocate {
        /// Where on the disk.
        at: u64,
        /// How many bytes.
        length: u64,
        /// What to do with them.
        mode: libc::c_int,
    },
    /// `BLKDISCARD`.
    Discard {
        /// Where on the disk.
        at: u64,
        /// How many bytes.
        length: u64,
    },
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

impl Step {
    /// Whether io_uring knows it. There is no way to discard on all kernels but an ioctl.
    pub fn is_for_the_ring(&self) -> bool {
        !matches!(self, Self::Discard { .. })
    }
}

impl Memory {
    /// The first `most` bytes of some buffers, or less where that is less work.
    pub fn of(buffers: &[libc::iovec], most: usize) -> Self {
        let mut length: usize = 0;
        let mut count: u32 = 0;
        for buffer in buffers {
            match length.checked_add(buffer.iov_len) {
                Some(longer) if longer <= most => length = longer,
                _ => break,
            }
            count += 1;
        }
        match buffers.first() {
            // One that is alone is a little less work for the kernel, and can be cut.
            Some(first) if count < 2 => Self::One(libc::iovec {
                iov_base: first.iov_base,
                iov_len: first.iov_len.min(most),
            }),
            _ => Self::Many {
                pieces: buffers.as_ptr(),
                count,
                length,
            },
        }
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.iov_len,
            Self::Many { length, .. } => *length,
        }
    }

    fn pieces(&self) -> (*const libc::iovec, libc::c_int) {
        match self {
            Self::One(piece) => (piece, 1),
            Self::Many { pieces, count, .. } => {
                (*pieces, libc::c_int::try_from(*count).unwrap_or(0))
            }
        }
    }
}

/// The flags of a write.
pub fn rw_flags(durable: bool) -> libc::c_int {
    match durable {
        true => libc::RWF_DSYNC,
        false => 0,
    }
}

/// What a file is like.
struct Kind {
    is_device: bool,
    blocks: Blocks,
}

impl Blocks {
    /// Of a disk that is both.
    fn and(self, other: Self) -> Self {
        Self {
            logical: self.logical.max(other.logical),
            physical: self.physical.max(other.physical),
            least: self.least.max(other.least),
            best: self.best.max(other.best),
        }
    }
}

/// How many bytes a file has, and what it is like.
fn examine(file: &File, read_only: bool) -> Result<(u64, Kind), Error> {
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|why| Error::Examine(why.into()))?;
    let flags = OFlag::from_bits_retain(flags);
    match flags & OFlag::O_ACCMODE {
        OFlag::O_WRONLY => return Err(Error::Access("read")),
        OFlag::O_RDONLY if !read_only => return Err(Error::Access("write")),
        _ if flags.contains(OFlag::O_PATH) => return Err(Error::Access("read")),
        _ if flags.contains(OFlag::O_APPEND) && !read_only => return Err(Error::Append),
        _ => {}
    }
    let metadata = file.metadata().map_err(Error::Examine)?;
    let is_device = metadata.file_type().is_block_device();
    let (size, blocks) = if is_device {
        examine_device(file).map_err(Error::Examine)?
    } else if metadata.is_file() {
        let preferred = u32::try_from(metadata.blksize()).unwrap_or(PAGE);
        let physical = preferred.clamp(SECTOR as u32, PAGE);
        let logical = match flags.contains(OFlag::O_DIRECT) {
            true => physical,
            false => SECTOR as u32,
        };
        let blocks = Blocks {
            logical,
            physical,
            least: physical,
            best: 0,
        };
        (metadata.len(), blocks)
    } else {
        return Err(Error::Kind);
    };
    Ok((size, Kind { is_device, blocks }))
}

fn examine_device(file: &File) -> Result<(u64, Blocks), IoError> {
    let fd = file.as_raw_fd();
    let ask = |request, answer: *mut libc::c_void| {
        // SAFETY: each of the requests below writes one number of the size that it is given.
        match unsafe { libc::ioctl(fd, request, answer) } {
            0 => Ok(()),
            _ => Err(IoError::last_os_error()),
        }
    };
    let mut size: u64 = 0;
    ask(BLKGETSIZE64, (&raw mut size).cast())?;
    let [mut logical, mut physical, mut least, mut best]: [u32; 4] = [0; 4];
    ask(libc::BLKSSZGET, (&raw mut logical).cast())?;
    ask(libc::BLKPBSZGET, (&raw mut physical).cast())?;
    ask(libc::BLKIOMIN, (&raw mut least).cast())?;
    ask(libc::BLKIOOPT, (&raw mut best).cast())?;
    let blocks = Blocks {
        logical,
        physical: physical.max(logical),
        least,
        best,
    };
    Ok((size, blocks))
}
