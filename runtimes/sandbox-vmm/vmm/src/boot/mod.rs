//! Puts a kernel, its initramfs, its command line and what it wants to know of the machine into
//! the guest's memory, as one of Linux's two direct boot protocols has it: no firmware runs.
//!
//! An ELF kernel is entered by its PVH note ([`pvh`]), a bzImage by its 64-bit entry
//! ([`zero_page`]). Both find the processors and the interrupt lines in the tables of [`mp_table`].

mod elf;
mod mp_table;
mod pvh;
mod zero_page;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout;
use crate::ram::{LARGE, enlarge};
use trefoil_virtio::Ram;

/// Why a kernel can't be started.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// read the kernel: {0}
    #[error("read the kernel: {0}")]
    Read(io::Error),
    /// the kernel is neither an ELF file nor a bzImage
    #[error("the kernel is neither an ELF file nor a bzImage")]
    Format,
    /// load the kernel: {0}
    #[error("load the kernel: {0}")]
    Load(linux_loader::loader::Error),
    /// the kernel can't be loaded as an ELF file: {0}
    #[error("the kernel can't be loaded as an ELF file: {0}")]
    Elf(&'static str),
    /// the ELF kernel has no PVH entry
    #[error("the ELF kernel has no PVH entry (CONFIG_PVH)")]
    NoPvh,
    /// the bzImage has no 64-bit entry
    #[error("the bzImage has no 64-bit entry")]
    No64,
    /// the kernel needs more memory than the guest has
    #[error("the kernel needs memory up to {needed:#x}, and the guest's ends at {end:#x}")]
    Memory {
        /// Where the kernel ends once it has been unpacked.
        needed: u64,
        /// Where the memory below the devices ends.
        end: u64,
    },
    /// the initramfs does not fit
    #[error("the initramfs of {0} bytes does not fit behind the kernel")]
    Initramfs(u64),
    /// read the initramfs: {0}
    #[error("read the initramfs: {0}")]
    ReadInitramfs(String),
    /// the command line is too long
    #[error(
        "the kernel's command line has {0} bytes, and may have {most}",
        most = layout::COMMAND_LINE_SIZE - 1
    )]
    CommandLine(usize),
    /// the command line holds a zero byte
    #[error("the kernel's command line holds a zero byte")]
    ZeroByte,
    /// write what the kernel reads at first: {0}
    #[error("write what the kernel reads at first: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// How the first virtual CPU is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 32-bit protected mode without paging, with PVH's start information in `rbx`.
    Pvh {
        /// The first instruction.
        address: u64,
    },
    /// In 64-bit mode with the lowest GiB mapped as it is, with the boot parameters in `rsi`.
    Linux64 {
        /// The first instruction.
        address: u64,
    },
}

/// A range of bytes in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    address: u64,
    length: u64,
}

/// Where RAM ends below the devices.
fn low_end(ram: &Ram) -> u64 {
    ram.find_region(GuestAddress(0))
        .map_or(0, |region| region.last_addr().raw_value().saturating_add(1))
}

/// The RAM a kernel may use, by address.
fn usable(ram: &Ram) -> Vec<Placed> {
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

/// Loads all that the guest needs to begin, for `cpus` processors and `devices` interrupt lines
/// from [`layout::FIRST_LINE`] on.
pub fn load(
    ram: &Ram,
    kernel: &mut File,
    initramfs: Option<&mut File>,
    command_line: &str,
    cpus: u8,
) -> Result<Entry, Failure> {
    let mut magic = [0; 4];
    kernel.rewind().map_err(Failure::Read)?;
    kernel.read_exact(&mut magic).map_err(Failure::Read)?;
    let (end, header, entry) = match magic == *b"\x7fELF" {
        true => {
            let loaded = elf::load(ram, kernel)?;
            let address = loaded.entry;
            (loaded.end, None, Entry::Pvh { address })
        }
        false => load_bzimage(ram, kernel)?,
    };
    let initramfs = match initramfs {
        Some(file) => Some((place_initramfs(ram, file, end)?, file)),
        None => None,
    };
    let placed = initramfs.as_ref().map(|(placed, _)| *placed);
    enlarge(ram, highest(ram, placed));
    if let Some((Placed { address, length }, file)) = initramfs {
        let fail = |why: io::Error| Failure::ReadInitramfs(why.to_string());
        copy(ram, file, 0, address, length).map_err(fail)?;
    }
    write_command_line(ram, command_line)?;
    mp_table::write(ram, cpus)?;
    match header {
        Some(header) => zero_page::write(ram, header, placed, command_line.len())?,
        None => pvh::write(ram, placed)?,
    }
    Ok(entry)
}

/// Answers the first address behind the kernel, what it says of itself, and where it is entered.
fn load_bzimage(ram: &Ram, file: &mut File) -> Result<(u64, Option<setup_header>, Entry), Failure> {
    use linux_loader::loader::Error as Loader;
    use linux_loader::loader::bzimage::Error as BzImageError;
    let start = Some(GuestAddress(layout::KERNEL));
    let loaded = BzImage::load(ram, start, file, None).map_err(|why| match why {
        Loader::Bzimage(BzImageError::InvalidBzImage) => Failure::Format,
        why => Failure::Load(why),
    })?;
    let Some(header) = loaded.setup_header else {
        return Err(Failure::Format);
    };
    if !is_64_bit(&header) {
        return Err(Failure::No64);
    }
    let (needed, end) = (unpacked_end(&loaded, &header), low_end(ram));
    if needed > end {
        return Err(Failure::Memory { needed, end });
    }
    let address = loaded.kernel_load.raw_value() + 0x200;
    Ok((needed, Some(header), Entry::Linux64 { address }))
}

/// `XLF_KERNEL_64`, since version 2.12 of the boot protocol.
fn is_64_bit(header: &setup_header) -> bool {
    header.version >= 0x20c && header.xloadflags & 1 != 0
}

/// The first address behind a bzImage once it has unpacked itself, which it does where it prefers.
fn unpacked_end(loaded: &KernelLoaderResult, header: &setup_header) -> u64 {
    let start = { header.pref_address }.max(loaded.kernel_load.raw_value());
    start
        .saturating_add({ header.init_size }.into())
        .max(loaded.kernel_end)
}

/// As high as it fits below the devices, where no kernel grows into it.
fn place_initramfs(ram: &Ram, file: &mut File, kernel_end: u64) -> Result<Placed, Failure> {
    let end = file.seek(SeekFrom::End(0));
    let length = end.map_err(|why| Failure::ReadInitramfs(why.to_string()))?;
    let address = low_end(ram)
        .checked_sub(length)
        .map(|address| address & !0xfff)
        .filter(|&address| address >= kernel_end)
        .ok_or(Failure::Initramfs(length))?;
    Ok(Placed { address, length })
}

/// Copies `length` bytes at `offset` of the file to an address, where large pages make it cheap.
fn copy(ram: &Ram, file: &mut File, offset: u64, address: u64, length: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let count = usize::try_from(length).map_err(io::Error::other)?;
    ram.read_exact_volatile_from(GuestAddress(address), file, count)
        .map_err(io::Error::other)
}

/// What Linux fills at once, as high as it can: its table of pages, and what it begins with beside the
/// initramfs. The table has 64 bytes for each page, is of whole 128 MiB, and of large pages.
fn highest(ram: &Ram, initramfs: Option<Placed>) -> Range<u64> {
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

fn write_command_line(ram: &Ram, text: &str) -> Result<(), Failure> {
    if text.len() >= layout::COMMAND_LINE_SIZE {
        return Err(Failure::CommandLine(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(Failure::ZeroByte);
    }
    ram.write_slice(text.as_bytes(), GuestAddress(layout::COMMAND_LINE))?;
    ram.write_obj(0_u8, GuestAddress(layout::COMMAND_LINE + text.len() as u64))?;
    Ok(())
}

#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;

#[cfg(test)]
mod tests {
    use super::fuzz::elf;
    use super::*;
    use crate::ram::{Pages, make};
    use std::io::Write;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(content).expect("write");
        file
    }

    #[test]
    fn an_elf_kernel_is_entered_where_its_note_says() {
        let ram = make(32, Pages::Ordinary).expect("memory");
        let mut kernel = file(&elf(0x2000));
        let mut image = file(&[7; 5000]);
        let entry = load(&ram, &mut kernel, Some(&mut image), "quiet", 2).expect("load");
        assert_eq!(
            entry,
            Entry::Pvh {
                address: layout::KERNEL + 0x10
            }
        );
        let mut text = [0; 6];
        ram.read_slice(&mut text, GuestAddress(layout::COMMAND_LINE))
            .expect("read");
        assert_eq!(&text, b"quiet\0");
        let last: u8 = ram
            .read_obj(GuestAddress(((32 << 20) - 5000) & !0xfff))
            .expect("read");
        assert_eq!(last, 7);
    }

    #[test]
    fn what_does_not_fit_or_is_no_kernel_is_said_in_words() {
        let ram = make(32, Pages::Ordinary).expect("memory");
        let load = |kernel: &[u8], image: &[u8], text: &str| {
            load(&ram, &mut file(kernel), Some(&mut file(image)), text, 1)
                .expect_err("refused")
                .to_string()
        };
        assert!(load(&elf(32 << 20), b"", "").contains("needs memory up to 0x2100000"));
        assert!(load(&elf(1), &vec![0; 31 << 20], "").contains("does not fit behind"));
        assert!(load(b"#!/bin/sh\n", b"", "").contains("the kernel"));
        assert!(load(&vec![0; 4096], b"", "").contains("neither an ELF file nor a bzImage"));
        assert!(load(&elf(1), b"", &"x".repeat(2048)).contains("2048 bytes, and may have 2047"));
        assert!(load(&elf(1), b"", "a\0b").contains("zero byte"));
    }

    proptest::proptest! {
        #[test]
        fn no_kernel_is_too_strange(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            fuzz(&bytes);
        }
    }

    #[test]
    fn what_linux_fills_at_once_is_beside_the_initramfs_or_at_the_end() {
        const MIB: u64 = 1 << 20;
        let highest = |mib, initramfs: Option<u64>| {
            let ram = make(mib, Pages::Ordinary).expect("memory");
            let placed = initramfs.map(|address| Placed { address, length: 1 });
            let Range { start, end } = highest(&ram, placed);
            assert_eq!((start % MIB, end % MIB), (0, 0));
            (start / MIB, end / MIB)
        };
        assert_eq!(highest(128, Some(127 * MIB)), (124, 128));
        assert_eq!(highest(128, Some(126 * MIB)), (124, 128));
        assert_eq!(highest(128, None), (126, 128));
        assert_eq!(highest(3073, Some(3071 * MIB)), (4096, 4097));
        assert_eq!(highest(8192, Some(3071 * MIB)), (9088, 9216));
        assert_eq!(highest(16, Some(3 * MIB)), (0, 16));
    }

    #[test]
    fn memory_above_the_devices_is_told_of() {
        let ram = make(4096, Pages::Ordinary).expect("memory");
        let ranges = usable(&ram);
        let total: u64 = ranges.iter().map(|range| range.length).sum();
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[2].address, 1 << 32);
        assert_eq!(total, (4096 << 20) - (layout::KERNEL - layout::LOW_END));
    }
}
