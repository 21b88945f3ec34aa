//! The tables that tell a kernel without ACPI of its processors and interrupt lines.
//!
//! Source: Intel's MultiProcessor Specification 1.4 (242016).

use vm_memory::{Bytes, GuestAddress};

use crate::layout::{IO_APIC, LOCAL_APIC, MP_POINTER, MP_TABLE};
use trefoil_virtio::Ram;

/// The I/O APIC's input pins, and so the lines of the machine.
const LINES: u8 = 24;
const ISA_BUS: u8 = 0;
const APIC_VERSION: u8 = 0x14;
const HEADER: usize = 44;
const FPU_AND_APIC: u16 = 1 | 1 << 9;

/// Writes the tables for so many processors, all of them there: those that are not to be brought up
/// at boot are held back by the command line.
pub fn write(ram: &Ram, cpus: u8) -> Result<(), vm_memory::GuestMemoryError> {
    let table = configuration(cpus);
    let at = u32::try_from(MP_TABLE).unwrap_or(0);
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&at.to_le_bytes());
    // In units of 16 bytes; version 1.4.
    pointer[8..10].copy_from_slice(&[1, 4]);
    pointer[10] = checksum(&pointer);
    ram.write_slice(&pointer, GuestAddress(MP_POINTER))?;
    ram.write_slice(&table, GuestAddress(MP_TABLE))
}

fn configuration(cpus: u8) -> Vec<u8> {
    let mut entries: Vec<u8> = Vec::new();
    let mut count: u16 = 0;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..cpus {
        // Enabled; the first is the bootstrap processor. Signature and features of any with an APIC.
        let flags = if id == 0 { 0b11 } else { 0b01 };
        let mut entry = [0; 20];
        entry[..8].copy_from_slice(&[0, id, APIC_VERSION, flags, 0, 6, 0, 0]);
        entry[8..10].copy_from_slice(&FPU_AND_APIC.to_le_bytes());
        add(&entry);
    }
    add(b"\x01\x00ISA   ");
    let io_apic_id = cpus;
    let mut entry = [2, io_apic_id, APIC_VERSION, 1, 0, 0, 0, 0];
    entry[4..].copy_from_slice(&IO_APIC.to_le_bytes());
    add(&entry);
    for line in 0..LINES {
        // Vectored, polarity and trigger as the bus has it: edges.
        add(&[3, 0, 0, 0, ISA_BUS, line, io_apic_id, line]);
    }
    // The legacy controller on each local APIC's first pin, NMIs on the second.
    add(&[4, 3, 0, 0, ISA_BUS, 0, 0xff, 0]);
    add(&[4, 1, 0, 0, ISA_BUS, 0, 0xff, 1]);

    let mut table = vec![0; HEADER];
    table[..4].copy_from_slice(b"PCMP");
    let length = u16::try_from(HEADER + entries.len()).unwrap_or(0);
    table[4..6].copy_from_slice(&length.to_le_bytes());
    table[6] = 4;
    table[8..16].copy_from_slice(b"TREFOIL ");
    table[16..28].copy_from_slice(b"microVM     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend(entries);
    table[7] = checksum(&table);
    table
}

/// What makes all bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Pages, make};

    #[test]
    fn the_tables_add_up_and_fit() {
        let ram = make(16, Pages::Ordinary).expect("memory");
        for cpus in [1, 2, 64] {
            write(&ram, cpus).expect("write");
            let mut pointer = [0; 16];
            ram.read_slice(&mut pointer, GuestAddress(MP_POINTER))
                .expect("read");
            assert_eq!(checksum(&pointer), 0);
            let table = configuration(cpus);
            assert_eq!(checksum(&table), 0);
            assert!(MP_TABLE + table.len() as u64 <= MP_POINTER);
            let count = u16::from_le_bytes([table[34], table[35]]);
            assert_eq!(count, u16::from(cpus) + 1 + 1 + 24 + 2);
        }
    }
}
