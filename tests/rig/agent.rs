//! The death of a guest's agent, from outside: nothing on the host can send it a signal, and nothing in
//! its containers can see it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The unit in which the guest's kernel keeps a program in memory.
const PAGE: usize = 4096;

/// How much of the guest's memory is read at a time.
const AT_ONCE: usize = 1 << 20;

/// An instruction that the processor refuses (`ud2`).
const UNDEFINED: [u8; 2] = [0x0f, 0x0b];

/// Kills the program that a machine's guest runs: wherever its code is in the memory of the machine
/// with this VMM, it becomes instructions that no processor knows, and the next that is run is the
/// program's last.
///
/// # Errors
/// If the machine is gone, or its guest has no such program in memory (yet).
pub fn kill(vmm: u32, program: &Path) -> Result<()> {
    let memory = memory(vmm)?;
    let image =
        fs::read(program).with_context(|| format!("reading the program {}", program.display()))?;
    let code =
        code(&image).with_context(|| format!("reading the program {}", program.display()))?;
    let pages: HashMap<&[u8], &[u8]> = code
        .chunks_exact(PAGE)
        .map(|page| (&page[..64], page))
        .collect();
    let size = memory.metadata()?.len();
    let mut piece = vec![0; AT_ONCE];
    let mut found = 0;
    for start in (0..size).step_by(AT_ONCE) {
        let count = memory.read_at(&mut piece, start)?;
        for (index, page) in piece[..count].chunks_exact(PAGE).enumerate() {
            if pages.get(&page[..64]).is_some_and(|code| *code == page) {
                let at = start + u64::try_from(index * PAGE)?;
                memory.write_all_at(&UNDEFINED.repeat(PAGE / 2), at)?;
                found += 1;
            }
        }
    }
    ensure!(
        found > 0,
        "the guest of VMM {vmm} has nothing of {} in memory",
        program.display()
    );
    Ok(())
}

/// The file that is the guest's memory.
fn memory(vmm: u32) -> Result<File> {
    let directory = format!("/proc/{vmm}/fd");
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
        let entry = entry?.path();
        let target = fs::read_link(&entry).unwrap_or_default();
        if target.to_string_lossy().starts_with("/memfd:guest") {
            return File::options()
                .read(true)
                .write(true)
                .open(&entry)
                .with_context(|| format!("opening {}", entry.display()));
        }
    }
    bail!("VMM {vmm} has no guest")
}

/// The first piece of an ELF program that may be executed, from a page's beginning.
fn code(image: &[u8]) -> Result<&[u8]> {
    const EXECUTABLE: u64 = 1;
    let number = |at: usize, bytes: usize| -> Result<u64> {
        let field = image.get(at..at + bytes).context("it is too short")?;
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(field);
        Ok(u64::from_le_bytes(value))
    };
    // The offsets are those of ELF64's header and program headers, as elf(5) tells them.
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for index in 0..count {
        let header = usize::try_from(table + index * size)?;
        let (kind, flags) = (number(header, 4)?, number(header + 4, 4)?);
        if kind == 1 && flags & EXECUTABLE != 0 {
            let start = usize::try_from(number(header + 8, 8)?)?.next_multiple_of(PAGE);
            let end = usize::try_from(number(header + 8, 8)? + number(header + 0x20, 8)?)?;
            return image.get(start..end).context("it is too short");
        }
    }
    bail!("it has no code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_program_holds_its_functions() {
        let image = fs::read("/proc/self/exe").unwrap();
        let code = code(&image).unwrap();
        assert!(code.len() > 100 * PAGE);
        assert!(super::code(&image[..100]).is_err());
        assert!(super::code(b"").is_err());
    }
}
