//! From a file into the guest's memory.

use std::fs::File;
use std::io::{Error, Result, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::ram::Ram;

/// Copies `length` bytes at `offset` of the file to an address; the range lies in one region.
pub fn copy(ram: &Ram, file: &mut File, offset: u64, address: u64, length: u64) -> Result<()> {
    if length == 0 {
        return Ok(());
    }
    if !send(ram, file, offset, address, length)? {
        // Huge pages take no writes but through a mapping.
        file.seek(SeekFrom::Start(offset))?;
        let count = usize::try_from(length).map_err(Error::other)?;
        ram.read_exact_volatile_from(GuestAddress(address), file, count)
            .map_err(Error::other)?;
    }
    Ok(())
}

/// Has the host's kernel copy; `false` if it can't.
fn send(ram: &Ram, file: &File, offset: u64, address: u64, length: u64) -> Result<bool> {
    let outside = || Error::other("the range is not in the guest's memory");
    let region = ram.find_region(GuestAddress(address)).ok_or_else(outside)?;
    let within = address - region.start_addr().raw_value();
    if region.len() - within < length {
        return Err(outside());
    }
    let Some(memory) = region.file_offset() else {
        return Ok(false);
    };
    let mut target: &File = memory.file();
    target.seek(SeekFrom::Start(memory.start() + within))?;
    let mut from = i64::try_from(offset).map_err(Error::other)?;
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).map_err(Error::other)?;
        // SAFETY: both descriptors are open, and `from` is ours to be changed.
        let sent =
            unsafe { libc::sendfile(target.as_raw_fd(), file.as_raw_fd(), &mut from, count) };
        match u64::try_from(sent) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => left -= sent,
            Err(_) => match Error::last_os_error() {
                why if why.raw_os_error() == Some(libc::EINTR) => {}
                why if why.raw_os_error() == Some(libc::EINVAL) && left == length => {
                    return Ok(false);
                }
                why => return Err(why),
            },
        }
    }
    Ok(true)
}
