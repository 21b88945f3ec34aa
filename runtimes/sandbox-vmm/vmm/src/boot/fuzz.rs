//! A kernel and an initramfs of any content.

#![allow(clippy::unwrap_used, reason = "what can't be is a finding")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{Description, load};
use crate::client::configuration::Tables;
use crate::devices::testing::script::Script;
use crate::layout;
use crate::memory::{self, Pages};

/// What the fields of kernels are next to, or far from.
const VALUES: [u64; 10] = [
    0,
    1,
    4,
    56,
    0x10_0000,
    0x100_0000,
    0xc000_0000,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// Starts a kernel that was a good one before the bytes changed it, or that is nothing but them.
pub fn fuzz(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.number(1);
    let mut kernel = match how % 4 {
        0 | 1 => elf(0x2000),
        2 => bzimage(),
        _ => script.bytes(2048).to_vec(),
    };
    while let Some(what) = script.byte() {
        let at = script.number(1) as usize * 4 + usize::from(what & 3);
        let value = script.of(&VALUES).wrapping_add(script.number(1));
        let bytes = &value.to_le_bytes()[..1 << (what >> 2 & 3)];
        match what >> 4 {
            0 => kernel.truncate(at * 4),
            1 => kernel.resize(kernel.len() + at, what),
            _ if kernel.len() > at + 8 => kernel[at..at + bytes.len()].copy_from_slice(bytes),
            _ => {}
        }
    }
    let file = |content: &[u8]| {
        let file = File::from(memfd_create("kernel", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all_at(content, 0).unwrap();
        file
    };
    let ram = memory::make(layout::MIN_MEMORY_MIB, Pages::Ordinary).unwrap();
    let mut initramfs = file(&kernel[..kernel.len().min(100)]);
    initramfs.set_len((how << 18) / 7).unwrap();
    let text = "x".repeat(how as usize * 10);
    let description = Description {
        tables: match how & 8 {
            0 => Tables::MultiProcessor,
            _ => Tables::Acpi,
        },
        cpus: how as u8 % 64 + 1,
        devices: how as usize % (layout::MAX_DEVICES + 1),
        serial: how & 16 == 0,
    };
    drop(load(
        &ram,
        &mut file(&kernel),
        Some(&mut initramfs),
        &text,
        &description,
    ));
    for region in ram.iter() {
        let length = region.len() as usize;
        // SAFETY: the memory is mapped there for good, and nobody else has it.
        let outcome = unsafe { libc::munmap(region.as_ptr().cast(), length) };
        assert_eq!(outcome, 0);
    }
}

/// An ELF kernel of one segment at 1 MiB and a PVH note.
pub(super) fn elf(memory_size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = 62;
    bytes[24..32].copy_from_slice(&layout::KERNEL.to_le_bytes());
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
    let mut segment = |at: usize, kind: u32, offset: u64, size: u64, memory: u64| {
        bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        for (place, value) in [(8, offset), (24, layout::KERNEL), (32, size), (40, memory)] {
            bytes[at + place..at + place + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    segment(64, 1, 0x200, 0x100, memory_size);
    segment(120, 4, 0x180, 24, 24);
    for (at, value) in [(0x180, 4_u32), (0x184, 8), (0x188, 18)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[0x18c..0x190].copy_from_slice(b"Xen\0");
    bytes[0x190..0x198].copy_from_slice(&(layout::KERNEL + 0x10).to_le_bytes());
    bytes[0x200..0x300].fill(0xf4);
    bytes
}

/// A bzImage of one sector for its set-up and one behind it.
pub(super) fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 0x600];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    // Sectors of set-up; in paragraphs, how long the rest is; where it begins.
    put(0x1f1, &[1]);
    put(0x1f4, &0x20_u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    // Loaded high, with a 64-bit entry.
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x260, &0x2000_u32.to_le_bytes());
    bytes
}
