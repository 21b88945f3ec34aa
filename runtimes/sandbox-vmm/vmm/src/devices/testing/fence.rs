//! A guest's memory between pages that nobody may touch, so that whoever goes beyond its end is seen.

use std::fs::File;
use std::ptr::null_mut;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use trefoil_virtio::Ram;

/// How much there is on both sides.
const FENCE: usize = 1 << 20;

/// What the memory is mapped in. It goes when this does, whoever still has the memory.
pub struct Fence {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: addresses, by which nothing is read or written here.
unsafe impl Send for Fence {}
// SAFETY: as above.
unsafe impl Sync for Fence {}

impl Fence {
    /// Makes `size` bytes of memory, from the guest's address zero on.
    pub fn around(size: u64) -> (Arc<Ram>, Self) {
        let file = File::from(memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        let size = size as usize;
        let length = size + 2 * FENCE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let fence = Self { start, length };
        // SAFETY: still inside of what was just mapped.
        let inside = unsafe { start.cast::<u8>().add(FENCE) };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: it replaces a part of what was just mapped, which nobody has an address of.
        let placed = unsafe { libc::mmap(inside.cast(), size, access, flags, fd, 0) };
        assert_ne!(placed, libc::MAP_FAILED);
        let builder = MmapRegionBuilder::new(size)
            .with_file_offset(FileOffset::new(file, 0))
            .with_mmap_prot(access)
            .with_mmap_flags(flags);
        // SAFETY: it is mapped so, and as long as this, which a driver keeps the longest of all.
        let builder = unsafe { builder.with_raw_mmap_pointer(inside) };
        let region = GuestRegionMmap::new(builder.build().unwrap(), GuestAddress(0)).unwrap();
        let ram = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        (Arc::new(ram), fence)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // SAFETY: mapped by `around`, and nobody looks at the memory any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
