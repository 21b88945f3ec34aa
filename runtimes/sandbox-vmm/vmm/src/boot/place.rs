//! Where things lie in the guest's memory, and what is still free.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;

use trefoil_virtio::Ram;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout;
use crate::memory::LARGE;

/// Kinds of memory in a memory map (ACPI 6.5, 15: address range types): what a kernel may use, and ACPI's
/// tables.
pub(super) const RAM: u32 = 1;
pub(super) const ACPI: u32 = 3;

/// A range of bytes in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub address: u64,
    pub length: u64,
}

/// Where RAM ends below the devices.
pub(super) fn low_end(ram: &Ram) -> u64 {
    ram.find_region(GuestAddress(0))
        .map_or(0, |region| region.last_addr().raw_value().saturating_add(1))
}

/// The RAM a kernel may use, by address.
pub(super) fn usable(ram: &Ram) -> Vec<Placed> {
    let mut ranges = vec![Placed {
        address: 0,
        length: layout::LOW_END,
    }];
    for region in ram.iter() {
        let start = region.start_addr().raw_value().max(layout::KERNEL);
        let end = region.last_addr().raw_value().saturating_add(1);
        ranges.push(Placed {
            address: start,
            length: end.saturating_sub(start),
        });
    }
    ranges
}

/// Copies `length` bytes at `offset` of the file to an address, where large pages make it cheap.
pub(super) fn copy(
    ram: &Ram,
    file: &mut File,
    offset: u64,
    address: u64,
    length: u64,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let count = usize::try_from(length).map_err(io::Error::other)?;
    ram.read_exact_volatile_from(GuestAddress(address), file, count)
        .map_err(io::Error::other)
}

/// What Linux fills at once, as high as it can: its table of pages, and what it begins with beside the
/// initramfs. The table has 64 bytes for each page, is of whole 128 MiB, and of large pages.
pub(super) fn highest(ram: &Ram, initramfs: Option<Placed>) -> Range<u64> {
    const LARGE_PAGE: u64 = LARGE as u64;
    let Some(last) = ram.iter().last() else {
        return 0..0;
    };
    let (start, end) = (last.start_addr().raw_value(), last.last_addr().raw_value());
    let below = match initramfs {
        Some(placed) if placed.address >= start => placed.address,
        _ => end.saturating_add(1),
    };
    let all: u64 = ram.iter().map(GuestMemoryRegion::len).sum();
    let table = (all / 64).next_multiple_of(LARGE_PAGE);
    let from = (below - below % LARGE_PAGE).saturating_sub(table);
    from.max(start)..end.saturating_add(1)
}
