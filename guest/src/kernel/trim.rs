//! The kernel's ELF file without what its loader would read for nothing: zeros at its end, and the sections,
//! of which only its segments are loaded.
//!
//! Linux has 4 MiB of zeros for what encrypts memory behind its `.bss`, and so the linker writes both to the
//! file. Whoever loads a segment clears what it has in memory beyond the file.
//!
//! The format: System V ABI, "ELF-64 Object File Format", version 1.5.

use anyhow::{Context, Result, ensure};

/// The header's size and where its fields are: where the segments are described, the sections' fields.
const HEADER: usize = 64;
const SEGMENTS: usize = 32;
const SECTIONS: usize = 40;
const SEGMENT_SIZE: usize = 54;
const SEGMENT_COUNT: usize = 56;
const SECTION_COUNT: usize = 60;
const SECTION_NAMES: usize = 62;

/// A segment's fields: its kind, where it is in the file, and how long it is there.
const OFFSET: usize = 8;
const FILE_SIZE: usize = 32;
const DESCRIPTION: usize = 56;
/// `PT_LOAD`.
const LOAD: u32 = 1;

/// Ends the file with the last byte that is loaded and no zero.
pub fn trim(file: &mut Vec<u8>) -> Result<()> {
    ensure!(
        file.starts_with(b"\x7fELF\x02\x01"),
        "it is no ELF file of 64 bits"
    );
    let (described, size) = (number(file, SEGMENTS)?, half(file, SEGMENT_SIZE)?);
    ensure!(
        size == DESCRIPTION,
        "its segments are described in {size} bytes"
    );
    let mut end = HEADER;
    for index in 0..half(file, SEGMENT_COUNT)? {
        let at = described + index * DESCRIPTION;
        end = end.max(at + DESCRIPTION);
        let (offset, length) = (number(file, at + OFFSET)?, number(file, at + FILE_SIZE)?);
        let content = file.get(offset..offset + length);
        let content = content.context("a segment ends beyond the file")?;
        let kind = file[at..at + 4].try_into().map(u32::from_le_bytes)?;
        let kept = match kind {
            LOAD => content
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1),
            _ => length,
        };
        file[at + FILE_SIZE..][..8].copy_from_slice(&(kept as u64).to_le_bytes());
        end = end.max(offset + kept);
    }
    file.truncate(end);
    file[SECTIONS..][..8].fill(0);
    file[SECTION_COUNT..][..2].fill(0);
    file[SECTION_NAMES..][..2].fill(0);
    Ok(())
}

fn number(file: &[u8], at: usize) -> Result<usize> {
    let bytes = file.get(at..at + 8).context("it is cut short")?;
    Ok(usize::try_from(u64::from_le_bytes(bytes.try_into()?))?)
}

fn half(file: &[u8], at: usize) -> Result<usize> {
    let bytes = file.get(at..at + 2).context("it is cut short")?;
    Ok(u16::from_le_bytes(bytes.try_into()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of segments: each its kind and its content, one behind the other, then sections of 100 bytes.
    fn file(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(HEADER, 0xff);
        file[SEGMENTS..][..8].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[SEGMENT_SIZE..][..2].copy_from_slice(&(DESCRIPTION as u16).to_le_bytes());
        file[SEGMENT_COUNT..][..2].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut offset = HEADER + segments.len() * DESCRIPTION;
        for (kind, content) in segments {
            let mut description = [0; DESCRIPTION];
            description[..4].copy_from_slice(&kind.to_le_bytes());
            description[OFFSET..][..8].copy_from_slice(&(offset as u64).to_le_bytes());
            description[FILE_SIZE..][..8].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file.extend(description);
            offset += content.len();
        }
        segments
            .iter()
            .for_each(|(_, content)| file.extend(*content));
        file.extend([0xaa; 100]);
        file
    }

    #[test]
    fn zeros_at_the_end_of_what_is_loaded_and_sections_go() {
        let (code, data, note) = (&[1, 0, 2, 0][..], &[3, 0, 0, 0, 0][..], &[4, 0][..]);
        let whole = file(&[(4, note), (LOAD, code), (LOAD, data)]);
        let mut trimmed = whole.clone();
        trim(&mut trimmed).expect("trim");

        let sizes = |file: &[u8]| {
            let sizes = (0..3).map(|index| number(file, HEADER + index * DESCRIPTION + FILE_SIZE));
            sizes.collect::<Result<Vec<_>>>().expect("sizes")
        };
        assert_eq!(sizes(&whole), [2, 4, 5]);
        assert_eq!(sizes(&trimmed), [2, 3, 1]);
        assert!(trimmed.ends_with(&[4, 0, 1, 0, 2, 0, 3]));
        assert_eq!(number(&trimmed, SECTIONS).expect("sections"), 0);
        assert_eq!(half(&trimmed, SECTION_COUNT).expect("count"), 0);

        let once = trimmed.clone();
        trim(&mut trimmed).expect("again");
        assert_eq!(once, trimmed);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let whole = file(&[(LOAD, &[1; 8])]);
        for length in 0..whole.len() - 100 {
            trim(&mut whole[..length].to_vec()).expect_err("cut short");
        }
        trim(&mut b"#!/bin/sh".to_vec()).expect_err("a script");
    }
}
