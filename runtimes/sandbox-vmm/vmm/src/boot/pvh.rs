//! What a kernel that is entered by its PVH note finds in `rbx`: the start information, and from
//! there the memory map, the initramfs and the command line.
//!
//! Source: `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h` of Xen.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestAddress;

use super::failure::Failure;
use super::place::{ACPI, Placed, RAM, usable};
use crate::layout::{COMMAND_LINE, PVH_START_INFO};
use trefoil_virtio::Ram;

const MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u32 = 1;
const MEMORY_MAP: u64 = PVH_START_INFO + 0x100;
const MODULES: u64 = PVH_START_INFO + 0x800;

/// Writes it all. `acpi` is where the ACPI tables are, if there are any.
pub fn write(ram: &Ram, initramfs: Option<Placed>, acpi: Option<Placed>) -> Result<(), Failure> {
    let usable = usable(ram).into_iter().map(|range| (range, RAM));
    let map: Vec<_> = usable
        .chain(acpi.map(|range| (range, ACPI)))
        .map(|(range, type_)| hvm_memmap_table_entry {
            addr: range.address,
            size: range.length,
            type_,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initramfs
        .iter()
        .map(|placed| hvm_modlist_entry {
            paddr: placed.address,
            size: placed.length,
            ..Default::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: u32::try_from(modules.len()).unwrap_or(0),
        modlist_paddr: MODULES,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: acpi.map_or(0, |tables| tables.address),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(PVH_START_INFO));
    parameters.set_sections(&map, GuestAddress(MEMORY_MAP));
    parameters.set_modules(&modules, GuestAddress(MODULES));
    PvhBootConfigurator::write_bootparams(&parameters, ram).map_err(|why| {
        Failure::Write(vm_memory::GuestMemoryError::IOError(std::io::Error::other(
            why.to_string(),
        )))
    })
}
