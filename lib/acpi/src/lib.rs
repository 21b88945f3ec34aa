//! ACPI tables for a machine with no firmware: its processors, its I/O APIC, its serial line and its
//! virtio-mmio devices. Nothing else: no power management, no hot-plug, no method that a kernel would run.
//!
//! Without the standard library and without memory of its own: what makes the tables of a confidential
//! guest is the measured part that runs before its kernel, as AML from the host would be code of the host's
//! in the guest's kernel ([decision 11](../../docs/decisions/0011-acpi-for-confidential-guests.md)).
//!
//! Source: ACPI Specification 6.5; `LNRO0005` is virtio-mmio's in Linux (`drivers/virtio/virtio_mmio.c`).

#![cfg_attr(not(test), no_std)]

mod aml;
mod bytes;
#[cfg(test)]
mod tests;

use core::fmt;

use bytes::Bytes;

/// What the tables tell of.
#[derive(Clone, Debug)]
pub struct Machine<Devices> {
    /// How many processors there are; their local APICs have the numbers from zero on.
    pub processors: u8,
    /// The physical address of the local APICs' registers.
    pub local_apics: u32,
    /// The physical address of the I/O APIC's registers. Its inputs have the numbers from zero on.
    pub io_apic: u32,
    /// The serial line, if there is one.
    pub serial: Option<Serial>,
    /// The devices, in the order in which a kernel is to find them.
    pub devices: Devices,
}

/// A 16550 serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// The first of its eight ports.
    pub port: u16,
    /// The I/O APIC's input that it is connected to.
    pub line: u32,
}

/// A virtio device behind virtio-mmio's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The physical address of its registers.
    pub address: u32,
    /// How many bytes they take.
    pub size: u32,
    /// The I/O APIC's input that it is connected to, perhaps with others.
    pub line: u32,
}

/// The tables do not fit into the room that there is for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ACPI tables do not fit into the room for them")
    }
}

impl core::error::Error for TooLong {}

/// Where each table begins: they are aligned to so many bytes.
const ALIGNMENT: usize = 16;
/// The length of the structure that points to the tables, since ACPI 2.0.
const RSDP: usize = 36;
/// The header of each table.
const HEADER: usize = 36;
/// Where a table's header has its length and its checksum.
const LENGTH: usize = 4;
const CHECKSUM: usize = 9;

/// Writes the tables into `room`, which will be at the physical address `at`, and answers with their length
/// in bytes. What points to them, the RSDP, comes first.
///
/// # Errors
/// [`TooLong`] if the room is too small; part of it is written then.
pub fn write<Devices>(
    machine: &Machine<Devices>,
    at: u32,
    room: &mut [u8],
) -> Result<usize, TooLong>
where
    Devices: Iterator<Item = Device> + Clone,
{
    let mut bytes = Bytes::new(room);
    bytes.push(&[0; RSDP])?;
    let dsdt = table(&mut bytes, b"DSDT", 2, |dsdt| aml::write(machine, dsdt))?;
    let fadt = table(&mut bytes, b"FACP", 6, |fadt| write_fadt(fadt, at, dsdt))?;
    let madt = table(&mut bytes, b"APIC", 4, |madt| write_madt(madt, machine))?;
    let xsdt = table(&mut bytes, b"XSDT", 1, |xsdt| {
        [fadt, madt]
            .into_iter()
            .try_for_each(|offset| xsdt.push(&address(at, offset).to_le_bytes()))
    })?;
    write_rsdp(&mut bytes, address(at, xsdt))?;
    Ok(bytes.length())
}

/// The address of what is at an offset of the room.
fn address(at: u32, offset: usize) -> u64 {
    u64::from(at) + offset as u64
}

/// Writes a table: its header, and what `fill` adds. Answers with its offset.
fn table(
    bytes: &mut Bytes<'_>,
    signature: &[u8; 4],
    revision: u8,
    fill: impl FnOnce(&mut Bytes<'_>) -> Result<(), TooLong>,
) -> Result<usize, TooLong> {
    bytes.align(ALIGNMENT)?;
    let start = bytes.length();
    bytes.push(signature)?;
    // The length and, behind the revision, the checksum are not known yet.
    bytes.push(&[0, 0, 0, 0, revision, 0])?;
    bytes.push(b"TREFOL")?;
    bytes.push(b"TREFOIL ")?;
    bytes.push(&1_u32.to_le_bytes())?;
    bytes.push(b"TRFL")?;
    bytes.push(&1_u32.to_le_bytes())?;
    fill(bytes)?;
    let length = u32::try_from(bytes.length() - start).map_err(|_| TooLong)?;
    bytes.put(start + LENGTH, &length.to_le_bytes())?;
    bytes.add_up(start, start + CHECKSUM)?;
    Ok(start)
}

/// The root pointer: the first 20 bytes add up to zero, as those of ACPI 1.0, and all 36 do.
fn write_rsdp(bytes: &mut Bytes<'_>, xsdt: u64) -> Result<(), TooLong> {
    const OLD: usize = 20;
    let mut rsdp = [0; RSDP];
    let mut whole = Bytes::new(&mut rsdp);
    whole.push(b"RSD PTR \0TREFOL\x02")?;
    whole.push(&0_u32.to_le_bytes())?;
    whole.add_up(0, 8)?;
    debug_assert!(whole.length() == OLD);
    whole.push(&(RSDP as u32).to_le_bytes())?;
    whole.push(&xsdt.to_le_bytes())?;
    whole.push(&[0; 4])?;
    whole.add_up(0, 32)?;
    bytes.put(0, &rsdp)
}

/// The fixed table: this machine has none of the hardware that ACPI would fix the place of.
fn write_fadt(fadt: &mut Bytes<'_>, at: u32, dsdt: usize) -> Result<(), TooLong> {
    /// The length of revision 6.
    const SIZE: usize = 276;
    // No VGA, no message-signalled interrupts, no clock in CMOS.
    const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 3 | 1 << 5;
    // Caches can be written back and forgotten; no buttons; none of the fixed hardware.
    const FLAGS: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 20;
    let start = fadt.length() - HEADER;
    fadt.push(&[0; SIZE - HEADER])?;
    fadt.put(start + 109, &BOOT_ARCHITECTURE.to_le_bytes())?;
    fadt.put(start + 112, &FLAGS.to_le_bytes())?;
    fadt.put(start + 140, &address(at, dsdt).to_le_bytes())?;
    fadt.put(start + 268, b"TREFOIL\0")
}

/// The processors' local APICs, and the I/O APIC.
fn write_madt<Devices>(madt: &mut Bytes<'_>, machine: &Machine<Devices>) -> Result<(), TooLong> {
    /// The processor is there.
    const ENABLED: u32 = 1;
    madt.push(&machine.local_apics.to_le_bytes())?;
    // No 8259s.
    madt.push(&0_u32.to_le_bytes())?;
    for number in 0..machine.processors {
        madt.push(&[0, 8, number, number])?;
        madt.push(&ENABLED.to_le_bytes())?;
    }
    madt.push(&[1, 12, 0, 0])?;
    madt.push(&machine.io_apic.to_le_bytes())?;
    madt.push(&0_u32.to_le_bytes())?;
    // Of all processors the second input of the local APIC is for NMIs, as on a PC.
    madt.push(&[4, 6, 0xff, 0, 0, 1])
}
