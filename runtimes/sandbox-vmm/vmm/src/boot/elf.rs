//! An ELF kernel with a PVH entry.
//!
//! Its segments are read from the file right into the guest's memory, which is made of large pages
//! there first: nothing else is mapped, and what the guest reads of it costs few faults.
//!
//! Source: System V ABI, AMD64 supplement; the note is of `xen/include/public/elfnote.h`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use vm_memory::ByteValued;

use super::failure::Failure;
use super::place::{copy, low_end};
use crate::layout::KERNEL;
use crate::memory::enlarge;
use trefoil_virtio::Ram;

/// The file's header, its fields named as in the ABI.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    ident: [u8; 16],
    _type: u16,
    machine: u16,
    _version: u32,
    _entry: u64,
    phoff: u64,
    _shoff: u64,
    _flags: u32,
    _ehsize: u16,
    phentsize: u16,
    phnum: u16,
    _sections: [u16; 3],
}

/// A segment's header.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Segment {
    kind: u32,
    _flags: u32,
    offset: u64,
    _vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    _align: u64,
}

// SAFETY: integers without gaps between them.
unsafe impl ByteValued for Header {}
// SAFETY: integers without gaps between them.
unsafe impl ByteValued for Segment {}

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// More segments than any kernel has.
const MOST_SEGMENTS: u16 = 64;
/// More notes than any kernel has, in bytes.
const MOST_NOTES: u64 = 64 << 10;

/// How many bytes behind the kernel are made of large pages: Linux gives them away first, most of them before
/// a pod's first container runs.
const GIVEN_FIRST: u64 = 10 << 20;

/// A loaded kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Where its PVH entry is.
    pub entry: u64,
    /// The first address behind it.
    pub end: u64,
}

/// Copies the kernel's segments to where they say.
pub fn load(ram: &Ram, file: &mut File) -> Result<Kernel, Failure> {
    file.rewind().map_err(Failure::Read)?;
    let header: Header = read(file)?;
    let [_, _, _, _, class, data, ..] = header.ident;
    if class != CLASS_64 || data != LITTLE_ENDIAN || header.machine != X86_64 {
        return Err(Failure::Elf("it is not for 64-bit x86"));
    }
    if usize::from(header.phentsize) != size_of::<Segment>() {
        return Err(Failure::Elf("its segments are described in another size"));
    }
    if header.phnum > MOST_SEGMENTS {
        return Err(Failure::Elf("it has too many segments"));
    }
    file.seek(SeekFrom::Start(header.phoff))
        .map_err(Failure::Read)?;
    let segments = (0..header.phnum)
        .map(|_| read::<Segment>(file))
        .collect::<Result<Vec<_>, _>>()?;
    let limit = low_end(ram);
    // Nearly all of it is written here, and read by the guest before it is ready. What a kernel has behind
    // its content may be large and hardly used: a confidential one aligns `.bss..decrypted` to 2 MiB and
    // keeps 4 MiB for encrypting itself in place.
    let Range { start, end } = read_from_file(&segments, limit);
    enlarge(ram, start..end.saturating_add(GIVEN_FIRST).min(limit));
    let (mut entry, mut end) = (None, KERNEL);
    for segment in &segments {
        match segment.kind {
            LOAD => {
                let (address, size) = (segment.paddr, segment.memsz.max(segment.filesz));
                if address < KERNEL {
                    return Err(Failure::Elf("a segment lies below 1 MiB"));
                }
                let needed = address
                    .checked_add(size)
                    .ok_or(Failure::Elf("a segment ends beyond all addresses"))?;
                if needed > limit {
                    return Err(Failure::Memory { needed, end: limit });
                }
                copy(ram, file, segment.offset, address, segment.filesz).map_err(Failure::Read)?;
                end = end.max(needed);
            }
            NOTE => entry = entry.or(find_entry(file, segment)?),
            _ => {}
        }
    }
    let entry = entry.ok_or(Failure::NoPvh)?;
    Ok(Kernel { entry, end })
}

/// The addresses from where the first segment is put to where the last one's content ends.
fn read_from_file(segments: &[Segment], limit: u64) -> Range<u64> {
    let loaded = || segments.iter().filter(|segment| segment.kind == LOAD);
    let start = loaded().map(|segment| segment.paddr).min().unwrap_or(0);
    let end = loaded().map(|segment| segment.paddr.saturating_add(segment.filesz));
    start..end.max().unwrap_or(0).min(limit)
}

fn read<T: ByteValued + Default>(file: &mut File) -> Result<T, Failure> {
    let mut value = T::default();
    file.read_exact(value.as_mut_slice())
        .map_err(Failure::Read)?;
    Ok(value)
}

/// Looks for the entry among a segment's notes: three words (the sizes of name and value, the kind),
/// then the name and the value, each filled up to whole words.
fn find_entry(file: &mut File, segment: &Segment) -> Result<Option<u64>, Failure> {
    if segment.filesz > MOST_NOTES {
        return Err(Failure::Elf("its notes are too long"));
    }
    let mut notes = Vec::new();
    file.seek(SeekFrom::Start(segment.offset))
        .and_then(|_| file.take(segment.filesz).read_to_end(&mut notes))
        .map_err(Failure::Read)?;
    let mut rest = notes.as_slice();
    while let Some((header, after)) = rest.split_at_checked(12) {
        let word = |number: usize| -> u32 {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[number * 4..number * 4 + 4]);
            u32::from_le_bytes(bytes)
        };
        let padded = |size: u32| (size as usize).next_multiple_of(4);
        let Some((name, after)) = after.split_at_checked(padded(word(0))) else {
            break;
        };
        let Some((value, after)) = after.split_at_checked(padded(word(1))) else {
            break;
        };
        if name == b"Xen\0" && word(2) == PHYS32_ENTRY {
            // Four bytes or eight, as the kernel's bitness was when it was invented.
            let mut bytes = [0; 8];
            let count = value.len().min(8);
            bytes[..count].copy_from_slice(&value[..count]);
            return Ok(Some(u64::from_le_bytes(bytes)));
        }
        rest = after;
    }
    Ok(None)
}
