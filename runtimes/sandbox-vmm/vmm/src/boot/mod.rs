//! Puts a kernel, its initramfs, its command line and what it wants to know of the machine into
//! the guest's memory, as one of Linux's two direct boot protocols has it: no firmware runs. It is one
//! way to fill a machine's parts; [`Boot::fill`] is all of it.
//!
//! An ELF kernel is entered by its PVH note ([`pvh`]), a bzImage by its 64-bit entry
//! ([`zero_page`]). Both find the processors and the interrupt lines in the tables of [`mp_table`], or, if
//! the guest is to have those, of [`acpi`].

mod acpi;
mod elf;
mod failure;
mod mp_table;
mod place;
mod pvh;
mod zero_page;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use kvm_ioctls::VcpuFd;
use linux_loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use trefoil_virtio::Ram;
use vm_memory::{Address, Bytes, GuestAddress};

use crate::client::configuration::{Configuration, Tables};
use crate::cpu::registers::{self, Entry};
use crate::layout;
use crate::memory::enlarge;
pub use failure::Failure;
use place::{Placed, copy, highest, low_end};

/// What a guest begins with.
#[derive(Debug)]
pub struct Boot {
    /// An ELF kernel with a PVH entry, or a bzImage.
    pub kernel: File,
    /// What the kernel begins with.
    pub initramfs: Option<File>,
    /// What the kernel is told.
    pub command_line: String,
    /// What it can't find out by itself.
    pub description: Description,
}

/// What a kernel is told of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// By which tables.
    pub tables: Tables,
    /// How many processors there are.
    pub cpus: u8,
    /// How many devices there are.
    pub devices: usize,
    /// Whether there is a serial line.
    pub serial: bool,
}

impl Description {
    /// Of the machine that a configuration is of.
    pub fn of(configuration: &Configuration) -> Self {
        Self {
            tables: configuration.tables,
            cpus: configuration.cpus.most,
            devices: configuration.devices.len(),
            serial: configuration.serial.is_some(),
        }
    }
}

impl Boot {
    /// Puts all of it into a machine's memory, and has the first virtual CPU begin there; it starts the
    /// others.
    ///
    /// # Errors
    /// If it does not fit, or is no kernel.
    pub fn fill(mut self, ram: &Ram, vcpus: &[VcpuFd]) -> Result<(), Failure> {
        let entry = load(
            ram,
            &mut self.kernel,
            self.initramfs.as_mut(),
            &self.command_line,
            &self.description,
        )?;
        match vcpus.first() {
            Some(first) => registers::set(first, ram, entry).map_err(Failure::Entry),
            None => Ok(()),
        }
    }
}

/// Loads all that the guest needs to begin.
pub fn load(
    ram: &Ram,
    kernel: &mut File,
    initramfs: Option<&mut File>,
    command_line: &str,
    description: &Description,
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
    let tables = match description.tables {
        Tables::MultiProcessor => {
            mp_table::write(ram, description.cpus)?;
            None
        }
        Tables::Acpi => Some(acpi::write(ram, description)?),
    };
    match header {
        Some(header) => zero_page::write(ram, header, placed, command_line.len(), tables)?,
        None => pvh::write(ram, placed, tables)?,
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
    use std::io::Write;
    use std::ops::Range;

    use super::fuzz::elf;
    use super::place::usable;
    use super::*;
    use crate::memory::{Pages, make};

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(content).expect("write");
        file
    }

    fn description(tables: Tables) -> Description {
        Description {
            tables,
            cpus: 2,
            devices: 3,
            serial: true,
        }
    }

    #[test]
    fn acpi_is_told_of_where_it_is_and_in_the_memory_map() {
        const ACPI_DATA: u32 = 3;
        let ram = make(32, Pages::Ordinary).expect("memory");
        let read = |address, size| {
            let mut bytes = vec![0; size];
            let read = ram.read_slice(&mut bytes, GuestAddress(address));
            read.expect("read");
            bytes
        };
        let entry = |map: &[u8]| {
            let number = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().expect("8"));
            let kind = u32::from_le_bytes(map[16..20].try_into().expect("4"));
            (number(0), number(8), kind)
        };
        let wanted = (layout::ACPI_TABLES, layout::ACPI_SIZE as u64, ACPI_DATA);
        let pointer = layout::ACPI_TABLES.to_le_bytes();
        let load = |kernel: &[u8]| {
            let description = description(Tables::Acpi);
            load(&ram, &mut file(kernel), None, "", &description).expect("load");
            assert_eq!(read(layout::ACPI_TABLES, 8), b"RSD PTR ");
        };

        load(&elf(0x2000));
        let info = read(layout::PVH_START_INFO, 56);
        assert_eq!(info[32..40], pointer);
        let map = u64::from_le_bytes(info[40..48].try_into().expect("8"));
        let count = u64::from(u32::from_le_bytes(info[48..52].try_into().expect("4")));
        assert_eq!(entry(&read(map + (count - 1) * 24, 24)), wanted);

        load(&fuzz::bzimage());
        assert_eq!(read(layout::BOOT_PARAMETERS + 0x70, 8), pointer);
        let count = u64::from(read(layout::BOOT_PARAMETERS + 0x1e8, 1)[0]);
        let last = layout::BOOT_PARAMETERS + 0x2d0 + (count - 1) * 20;
        assert_eq!(entry(&read(last, 20)), wanted);
    }

    #[test]
    fn an_elf_kernel_is_entered_where_its_note_says() {
        let ram = make(32, Pages::Ordinary).expect("memory");
        let mut kernel = file(&elf(0x2000));
        let mut image = file(&[7; 5000]);
        let entry = load(
            &ram,
            &mut kernel,
            Some(&mut image),
            "quiet",
            &description(Tables::MultiProcessor),
        )
        .expect("load");
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
            let description = description(Tables::MultiProcessor);
            let image = &mut file(image);
            load(&ram, &mut file(kernel), Some(image), text, &description)
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
