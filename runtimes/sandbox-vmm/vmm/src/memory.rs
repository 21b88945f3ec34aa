//! The guest's memory: where it comes from, and how it becomes the virtual machine's.
//!
//! It is one sealed memfd, mapped once, below and above the hole for devices.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::sys::memfd::MFdFlags;
use trefoil_virtio::Ram;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

pub use crate::client::configuration::Pages;
use crate::layout;
use crate::memfd::sealed;

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

/// What a guest's memory is made of, and so who else can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// One sealed file, mapped shared: a process that is handed the file has the same memory.
    Shared,
}

/// A guest's memory. It is mapped until the process ends.
#[derive(Clone, Debug)]
pub struct Memory {
    view: Arc<Ram>,
    backing: Backing,
}

impl Memory {
    /// Makes `mib` MiB of memory that other processes can be handed, all zero. Nothing is charged until
    /// it is touched.
    ///
    /// # Errors
    /// If that is too little or too much for a guest, or the host has not so much.
    pub fn shared(mib: u32, pages: Pages) -> Result<Self, Failure> {
        if !(layout::MIN_MEMORY_MIB..=layout::MAX_MEMORY_MIB).contains(&mib) {
            return Err(Failure::Size(mib));
        }
        let size = u64::from(mib) << 20;
        let fail = |why: &dyn std::fmt::Display| Failure::Make {
            size,
            why: why.to_string(),
        };
        let flags = match pages {
            Pages::Ordinary => MFdFlags::empty(),
            Pages::Huge => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        };
        let file = Arc::new(sealed("guest", size, flags).map_err(|why| fail(&why))?);
        let mut regions = Vec::new();
        let mut offset = 0;
        for (start, length) in layout::ram_ranges(size) {
            let from = FileOffset::from_arc(Arc::clone(&file), offset);
            offset += length;
            let length = usize::try_from(length).map_err(|why| fail(&why))?;
            let mapping = map(from, length).map_err(|why| fail(&why))?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(start))
                .ok_or_else(|| fail(&"the address is out of range"))?;
            regions.push(region);
        }
        let view = Ram::from_regions(regions).map_err(|why| fail(&why))?;
        Ok(Self {
            view: Arc::new(view),
            backing: Backing::Shared,
        })
    }

    /// The memory as devices see it, and whoever fills it.
    pub fn view(&self) -> &Arc<Ram> {
        &self.view
    }

    /// Makes it a virtual machine's, before that runs.
    ///
    /// # Errors
    /// KVM's.
    pub fn give_to(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        let Backing::Shared = self.backing;
        for (slot, region) in (0..).zip(self.view.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: the region is mapped until the process ends, and nothing but a guest's memory.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        Ok(())
    }
}

/// The memory alone, for who tries what is done with it.
///
/// # Errors
/// As [`Memory::shared`].
#[cfg(any(test, fuzzing))]
pub fn make(mib: u32, pages: Pages) -> Result<Arc<Ram>, Failure> {
    Memory::shared(mib, pages).map(|memory| memory.view)
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
        let _ = block.read_obj::<u8>(0);
    }
    if let Some(first) = blocks.first() {
        let start = first.ptr_guard_mut().as_ptr();
        // SAFETY: the blocks follow one another, in one region, as there is a hole between two; they keep
        // their place and their content.
        unsafe { libc::madvise(start.cast(), blocks.len() * LARGE, libc::MADV_COLLAPSE) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

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
