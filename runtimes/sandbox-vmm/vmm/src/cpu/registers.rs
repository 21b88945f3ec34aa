//! How the first virtual CPU begins; the others wait for it to start them.
//!
//! Source: Intel's Software Developer's Manual, volume 3; the boot protocols as in `crate::boot`.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::Failure;
use crate::layout::{BOOT_PARAMETERS, GDT, PAGE_TABLES, PVH_START_INFO};
use trefoil_virtio::Ram;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// MTRRs are on, and all that no range names is cached with write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

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

/// A flat segment of 4 GiB in the descriptor table's `index`th place.
fn segment(index: u8, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector: u16::from(index) * 8,
        type_,
        present: 1,
        s: 1,
        db: u8::from(!long),
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The same as the processor reads it from memory.
fn descriptor(segment: &kvm_segment) -> u64 {
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.present) << 7
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    // The limit is 20 bits of pages; the base is zero.
    flags << 40 | 0xf << 48 | 0xffff
}

/// Sets the registers of the first virtual CPU, and the descriptors they refer to.
pub fn set(vcpu: &VcpuFd, ram: &Ram, entry: Entry) -> Result<(), Failure> {
    let long = matches!(entry, Entry::Linux64 { .. });
    let code = segment(2, 0b1011, long);
    let data = segment(3, 0b0011, false);
    let task = kvm_segment {
        limit: 0x67,
        selector: 4 * 8,
        type_: 0b1011,
        present: 1,
        ..Default::default()
    };
    let table = [0, 0, descriptor(&code), descriptor(&data), 0];
    for (number, entry) in (0..).zip(table) {
        ram.write_obj::<u64>(entry, GuestAddress(GDT + number * 8))
            .map_err(|why| Failure::new("write the segment descriptors", why))?;
    }
    let mut special = vcpu
        .get_sregs()
        .map_err(|why| Failure::new("read the segment registers", why))?;
    special.gdt.base = GDT;
    special.gdt.limit = 5 * 8 - 1;
    special.idt.limit = 0;
    special.cs = code;
    for register in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *register = data;
    }
    special.tr = task;
    special.cr0 = CR0_PE | CR0_ET;
    let mut registers = kvm_regs {
        rflags: 0b10,
        ..Default::default()
    };
    match entry {
        Entry::Pvh { address } => {
            special.cr4 = 0;
            registers.rip = address;
            registers.rbx = PVH_START_INFO;
        }
        Entry::Linux64 { address } => {
            special.cr0 |= CR0_PG;
            special.cr3 = PAGE_TABLES;
            special.cr4 = CR4_PAE;
            special.efer = EFER_LME | EFER_LMA;
            registers.rip = address;
            registers.rsi = BOOT_PARAMETERS;
        }
    }
    vcpu.set_sregs(&special)
        .map_err(|why| Failure::new("set the segment registers", why))?;
    vcpu.set_regs(&registers)
        .map_err(|why| Failure::new("set the registers", why))?;
    // As after a reset of the x87.
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(|why| Failure::new("set the floating point registers", why))
}

/// Sets the model-specific registers that a firmware would have set, the same on all virtual CPUs.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), Failure> {
    let entries = [
        (MSR_MISC_ENABLE, FAST_STRINGS),
        (MSR_MTRR_DEFAULT_TYPE, MTRR_WRITE_BACK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let doing = "set the model-specific registers";
    let list =
        Msrs::from_entries(&entries).map_err(|why| Failure::new(doing, format!("{why:?}")))?;
    match vcpu.set_msrs(&list) {
        Ok(count) if count == entries.len() => Ok(()),
        Ok(count) => Err(Failure::new(
            doing,
            format!("KVM refuses {:#x}", entries[count].index),
        )),
        Err(why) => Err(Failure::new(doing, why)),
    }
}

/// Routes the legacy interrupt controller and NMIs to the first virtual CPU, as a firmware would.
pub fn set_local_apic(vcpu: &VcpuFd) -> Result<(), Failure> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXTERNAL: u8 = 7;
    const NMI: u8 = 4;
    let mut state = vcpu
        .get_lapic()
        .map_err(|why| Failure::new("read the local APIC", why))?;
    for (register, mode) in [(LVT_LINT0, EXTERNAL), (LVT_LINT1, NMI)] {
        // The delivery mode is bits 8 to 10.
        let byte = state.regs[register + 1].cast_unsigned();
        state.regs[register + 1] = (byte & !7 | mode).cast_signed();
    }
    vcpu.set_lapic(&state)
        .map_err(|why| Failure::new("set the local APIC", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_as_the_manual_has_them() {
        assert_eq!(descriptor(&segment(2, 0b1011, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(
            descriptor(&segment(2, 0b1011, false)),
            0x00cf_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&segment(3, 0b0011, false)),
            0x00cf_9300_0000_ffff
        );
    }
}
