//! The guest's memory: one sealed memfd, mapped once, below and above the hole for devices.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use trefoil_virtio::Ram;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestRegionMmap, MmapRegion};

use crate::layout;

/// Which pages the memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// The host's ordinary ones, given when they are touched.
    #[default]
    Ordinary,
    /// 2 MiB each, from the host's reserve; a guest that touches one too many is killed.
    Huge,
}

/// How large a large page is.
pub const LARGE: usize = 2 << 20;

/// Why the memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// make {size} bytes of guest memory: {why}
    #[error("make {size} bytes of guest memory: {why}")]
    Make {
        /// How much was asked for.
        size: u64,
        /// The kernel's or the mapping library's reason.
        why: String,
    },
    /// the guest memory is to be {0} MiB, and must be at least {min} and at most {max}
    #[error(
        "the guest memory is to be {0} MiB, and must be from {min} to {max}",
        min = layout::MIN_MEMORY_MIB,
        max = layout::MAX_MEMORY_MIB
    )]
    Size(u32),
}

/// Makes `mib` MiB of guest memory, all zero, mapped until the process ends. Nothing is charged until
/// it is touched.
pub fn make(mib: u32, pages: Pages) -> Result<Arc<Ram>, Failure> {
    if !(layout::MIN_MEMORY_MIB..=layout::MAX_MEMORY_MIB).contains(&mib) {
        return Err(Failure::Size(mib));
    }
    let size = u64::from(mib) << 20;
    let fail = |why: &dyn std::fmt::Display| Failure::Make {
        size,
        why: why.to_string(),
    };
    let file = Arc::new(sealed("guest", size, pages).map_err(|why| fail(&why))?);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in layout::ram_ranges(size) {
        let from = FileOffset::from_arc(Arc::clone(&file), offset);
        let length = usize::try_from(length).map_err(|why| fail(&why))?;
        let mapping = map(from, length).map_err(|why| fail(&why))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| fail(&"the address is out of range"))?;
        offset += region_length(length);
        regions.push(region);
    }
    Ram::from_regions(regions)
        .map(Arc::new)
        .map_err(|why| fail(&why))
}

fn region_length(length: usize) -> u64 {
    length as u64
}

/// Maps a part of the file for good, at an address at which its large pages can be large ones of the
/// processor's, too.
fn map(from: FileOffset, length: usize) -> io::Result<MmapRegion> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let room = length + LARGE;
    let reserved = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), room, libc::PROT_NONE, reserved, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let before = start.align_offset(LARGE);
    // SAFETY: it is less than there is room in excess, so that all is inside of what was mapped.
    let (inside, end) = unsafe { (start.byte_add(before), start.byte_add(before + length)) };
    let offset = i64::try_from(from.start()).map_err(io::Error::other)?;
    // SAFETY: this replaces a part of what was just mapped, of which nobody has an address, and
    // leaves the rest to be unmapped.
    let mapped = unsafe {
        libc::munmap(start, before);
        libc::munmap(end, LARGE - before);
        libc::mmap(
            inside,
            length,
            access,
            flags,
            from.file().as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let region = MmapRegionBuilder::new(length)
        .with_file_offset(from)
        .with_mmap_prot(access)
        .with_mmap_flags(flags);
    // SAFETY: it is mapped so, and nobody unmaps it.
    let region = unsafe { region.with_raw_mmap_pointer(mapped.cast()) };
    region.build().map_err(io::Error::other)
}

/// Makes large pages of the memory that holds a range of addresses, where more than half of one is in
/// the range and the host has any: what is to be filled and used from one end to the other costs a
/// fault where it would be hundreds. Otherwise all is as it was.
///
/// Each call makes the host's processors empty their lists of new pages, and waits for that: better
/// call it for one long range than for two short ones.
pub fn enlarge(ram: &Ram, addresses: Range<u64>) {
    let nearest = |address: u64| address.saturating_add(LARGE as u64 / 2) / LARGE as u64;
    let blocks: Vec<_> = (nearest(addresses.start)..nearest(addresses.end))
        .map_while(|number| {
            let address = GuestAddress(number * LARGE as u64);
            ram.get_slice(address, LARGE).ok()
        })
        .collect();
    for block in &blocks {
        // Where there is no page at all, none is made large.
        // SAFETY: the block is mapped. What is read is of no interest.
        unsafe { block.ptr_guard_mut().as_ptr().read_volatile() };
    }
    if let Some(first) = blocks.first() {
        let start = first.ptr_guard_mut().as_ptr();
        // SAFETY: the blocks follow one another, in one region, as there is a hole between two; they keep
        // their place and their content.
        unsafe { libc::madvise(start.cast(), blocks.len() * LARGE, libc::MADV_COLLAPSE) };
    }
}

/// A memfd whose size nobody can change any more: a shared mapping of a file that shrinks is a
/// fault waiting for whoever touches it.
pub(crate) fn sealed(name: &str, size: u64, pages: Pages) -> nix::Result<File> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if pages == Pages::Huge {
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    }
    let fd: OwnedFd = memfd_create(name, flags)?;
    let length = i64::try_from(size).map_err(|_| nix::errno::Errno::EFBIG)?;
    nix::unistd::ftruncate(&fd, length)?;
    fcntl(
        &fd,
        FcntlArg::F_ADD_SEALS(
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
        ),
    )?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::{Address, Bytes, GuestMemoryRegion};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn addresses_here_are_as_the_guests_modulo_a_large_page() {
        let ram = make(4097, Pages::Ordinary).expect("memory");
        assert_eq!(ram.iter().count(), 2);
        for region in ram.iter() {
            let here = region.as_ptr() as usize;
            let there = region.start_addr().raw_value() as usize;
            assert_eq!(here % LARGE, there % LARGE);
            ram.write_obj(7_u8, region.last_addr()).expect("write");
        }
    }

    #[test]
    fn memory_that_is_made_large_is_in_the_range_and_as_it_was() {
        for (range, most) in [
            (MIB..5 * MIB, 4),
            (2 * MIB..5 * MIB - 1, 2),
            (15 * MIB..99 * MIB, 2),
        ] {
            let ram = make(17, Pages::Ordinary).expect("memory");
            enlarge(&ram, range);
            let mut content = vec![1; 17 << 20];
            ram.write_obj(7_u8, GuestAddress(2 * MIB)).expect("write");
            let file = ram.iter().next().and_then(|region| region.file_offset());
            let taken = file.expect("a file").file().metadata().expect("metadata");
            assert!(taken.blocks() * 512 <= most * MIB, "{}", taken.blocks());
            ram.read_slice(&mut content, GuestAddress(0)).expect("read");
            assert_eq!(content.iter().position(|byte| *byte != 0), Some(2 << 20));
            assert_eq!(content.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 7);
        }
    }
}
