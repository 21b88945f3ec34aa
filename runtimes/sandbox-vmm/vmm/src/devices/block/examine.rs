//! What a file or device is like that is to be a disk.

use std::fs::File;
use std::io::Error as IoError;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::options::{Error, SECTOR};

/// `_IOR(0x12, 114, size_t)`: a device's size in bytes.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// Linux's page, the largest logical block its drivers take.
pub const PAGE: u32 = 4096;

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

/// What a file is like.
pub struct Kind {
    /// It is a block device.
    pub is_device: bool,
    /// Its blocks.
    pub blocks: Blocks,
}

impl Blocks {
    /// Of a disk that is both.
    pub fn and(self, other: Self) -> Self {
        Self {
            logical: self.logical.max(other.logical),
            physical: self.physical.max(other.physical),
            least: self.least.max(other.least),
            best: self.best.max(other.best),
        }
    }
}

/// How many bytes a file has, and what it is like.
pub fn examine(file: &File, read_only: bool) -> Result<(u64, Kind), Error> {
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
