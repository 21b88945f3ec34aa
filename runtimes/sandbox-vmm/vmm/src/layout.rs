//! Where things lie in the guest's physical memory.
//!
//! ```text
//! 0x0000_0000   RAM           boot parameters and page tables below 640 KiB
//! 0x0010_0000                 the kernel
//!               ...           the initramfs, as high as it fits below 3 GiB
//! 0xc000_0000   devices       one page of registers each
//! 0xfec0_0000   I/O APIC, local APICs, KVM's own pages on Intel
//! 0x1_0000_0000 RAM again     what did not fit below 3 GiB
//! ```

/// Less has no room for a kernel.
pub const MIN_MEMORY_MIB: u32 = 16;
/// 1 TiB: what 40 bits of physical address, the fewest any processor with virtualisation has, can name.
pub const MAX_MEMORY_MIB: u32 = 1023 << 10;

/// The first address that is not RAM.
pub const HOLE_START: u64 = 0xc000_0000;
/// The first address that is RAM again.
pub const HOLE_END: u64 = 1 << 32;

/// The first device's registers.
pub const DEVICES: u64 = HOLE_START;
/// How much each has.
pub const DEVICE_SIZE: u64 = 0x1000;
/// How many there may be. Linux is told of each in 36 bytes of its command line
/// ([`COMMAND_LINE_SIZE`]), of which so at least 600 are left for all else.
pub const MAX_DEVICES: usize = 40;
/// The interrupt line of the first device: the lower ones are the machine's.
pub const FIRST_LINE: u32 = 5;
/// The serial line's interrupt line, as on a PC.
pub const SERIAL_LINE: u32 = 4;
/// How many lines there are for devices: what is left of the I/O APIC's 24, as KVM has it.
const LINES: u32 = 24 - FIRST_LINE;

/// The I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that KVM needs on Intel's processors for a guest in real mode, and three more after it.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Those three.
pub const TASK_STATE: u64 = IDENTITY_MAP + 0x1000;

/// The segment descriptors a virtual CPU starts with.
pub const GDT: u64 = 0x500;
/// PVH's start information and the tables it points to.
pub const PVH_START_INFO: u64 = 0x6000;
/// The boot parameters of a bzImage ("zero page").
pub const BOOT_PARAMETERS: u64 = 0x7000;
/// The page tables a bzImage is entered with; three pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line, its terminating zero included, as x86's Linux takes it.
pub const COMMAND_LINE_SIZE: usize = 2048;
/// The ACPI tables, for a guest that has those.
pub const ACPI_TABLES: u64 = 0x9_e000;
/// How much room there is for them, in bytes.
pub const ACPI_SIZE: usize = 0x1000;
/// The MultiProcessor tables.
pub const MP_TABLE: u64 = 0x9_f000;
/// What points to them: in the last KiB of base memory, where Linux looks for it.
pub const MP_POINTER: u64 = 0x9_fc00;
/// Where RAM that a kernel may use ends below 1 MiB.
pub const LOW_END: u64 = ACPI_TABLES;
/// Where a kernel is put.
pub const KERNEL: u64 = 0x10_0000;

/// The ranges (start, length) that `size` bytes of RAM take.
pub fn ram_ranges(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let below = size.min(HOLE_START);
    let above = size - below;
    [(0, below), (HOLE_END, above)]
        .into_iter()
        .filter(|(_, length)| *length > 0)
}

/// Where the registers of the n-th device are.
pub const fn device_address(number: usize) -> u64 {
    DEVICES + number as u64 * DEVICE_SIZE
}

/// The interrupt line of the n-th device. Where there are more devices than lines, the last devices
/// share those of the first: a driver of either looks whether its device has something for it, which
/// is an exit more for each interrupt of a shared line.
pub const fn device_line(number: usize) -> u32 {
    FIRST_LINE + number as u32 % LINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_line_of_the_io_apics() {
        let lines: Vec<_> = (0..MAX_DEVICES).map(device_line).collect();
        assert_eq!(
            lines[..20],
            [&(5..24).collect::<Vec<_>>()[..], &[5]].concat()
        );
        assert!(lines.iter().all(|line| (FIRST_LINE..24).contains(line)));
        assert!(device_address(MAX_DEVICES) <= IO_APIC.into());
    }

    #[test]
    fn ram_goes_around_the_hole() {
        let ranges = |size| ram_ranges(size).collect::<Vec<_>>();
        assert_eq!(ranges(64 << 20), [(0, 64 << 20)]);
        assert_eq!(ranges(HOLE_START), [(0, HOLE_START)]);
        assert_eq!(
            ranges(4 << 30),
            [(0, HOLE_START), (HOLE_END, (4 << 30) - HOLE_START)]
        );
    }
}
