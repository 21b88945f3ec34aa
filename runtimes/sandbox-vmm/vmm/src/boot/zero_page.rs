//! What a bzImage finds in `rsi`, and the page tables it is entered with.
//!
//! Source: `Documentation/arch/x86/boot.rst` and `zero-page.rst` of Linux.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use vm_memory::{Bytes, GuestAddress};

use super::failure::Failure;
use super::place::{ACPI, Placed, RAM, usable};
use crate::layout::{BOOT_PARAMETERS, COMMAND_LINE, PAGE_TABLES};
use trefoil_virtio::Ram;

/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

/// Writes the parameters and the page tables. `acpi` is where the ACPI tables are, if there are any.
pub fn write(
    ram: &Ram,
    mut header: setup_header,
    initramfs: Option<Placed>,
    command_line_length: usize,
    acpi: Option<Placed>,
) -> Result<(), Failure> {
    let narrow = |value: u64| u32::try_from(value).unwrap_or(0);
    header.type_of_loader = UNDEFINED_LOADER;
    header.cmd_line_ptr = narrow(COMMAND_LINE);
    header.cmdline_size = narrow(command_line_length as u64);
    if let Some(placed) = initramfs {
        // Both below 4 GiB: it lies below the devices.
        header.ramdisk_image = narrow(placed.address);
        header.ramdisk_size = narrow(placed.length);
    }
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: acpi.map_or(0, |tables| tables.address),
        ..Default::default()
    };
    let usable = usable(ram).into_iter().map(|range| (range, RAM));
    let map = usable.chain(acpi.map(|range| (range, ACPI)));
    for (number, (range, kind)) in map.enumerate() {
        parameters.e820_table[number] = boot_e820_entry {
            addr: range.address,
            size: range.length,
            r#type: kind,
        };
        parameters.e820_entries += 1;
    }
    let parameters = BootParams::new(&parameters, GuestAddress(BOOT_PARAMETERS));
    LinuxBootConfigurator::write_bootparams(&parameters, ram).map_err(|why| {
        Failure::Write(vm_memory::GuestMemoryError::IOError(std::io::Error::other(
            why.to_string(),
        )))
    })?;
    write_page_tables(ram)
}

/// Maps the lowest GiB as it is, in pages of 2 MiB: the kernel, its parameters and its command line.
fn write_page_tables(ram: &Ram) -> Result<(), Failure> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let [top, middle, lowest] = [0, 0x1000, 0x2000].map(|offset| PAGE_TABLES + offset);
    ram.write_obj(middle | PRESENT_WRITABLE, GuestAddress(top))?;
    ram.write_obj(lowest | PRESENT_WRITABLE, GuestAddress(middle))?;
    for number in 0..512_u64 {
        let entry = number << 21 | PRESENT_WRITABLE | LARGE;
        ram.write_obj(entry, GuestAddress(lowest + number * 8))?;
    }
    Ok(())
}
