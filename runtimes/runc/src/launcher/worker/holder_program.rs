//! The program of the holder: it waits for nothing, for ever.
//!
//! A process of the pod can see it where the pod shares its pid namespace, so nothing of ours is in it: no
//! memory, no environment, no file. As the init of that namespace it inherits the orphans of the pod's
//! containers. It ignores `SIGCHLD`, by which the kernel reaps them itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use trefoil_core::{Context, Result};

/// Where it lies in the holder's root.
pub(crate) const PATH: &str = "/pause";

/// Where the file is in the process's memory.
const BASE: u32 = 0x40_0000;
/// The lengths of an ELF file's header and of one program header.
const HEADERS: [u16; 2] = [64, 56];
/// Where the code begins in the file.
const ENTRY: u32 = HEADERS[0] as u32 + HEADERS[1] as u32;
/// Where a `struct sigaction` of the kernel's stands in the file.
const ACTION: u32 = ENTRY + 40;

/// Puts the program into the holder's root.
///
/// # Errors
/// If it can't be written.
pub(super) fn install(root: &Path) -> Result<()> {
    let path = root.join(PATH.trim_start_matches('/'));
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o555)
        .open(&path)
        .and_then(|mut file| file.write_all(&image()))
        .and_then(|()| fs::metadata(&path).map(drop))
        .context(|| format!("write the holder's program {}", path.display()))
}

/// An executable file for x86-64, one segment that is loaded as it is.
fn image() -> Vec<u8> {
    let mut code = vec![0xb8, 13, 0, 0, 0]; // mov eax, SYS_rt_sigaction
    code.extend([0xbf, 17, 0, 0, 0]); // mov edi, SIGCHLD
    code.push(0xbe); // mov esi, the action
    code.extend((BASE + ACTION).to_le_bytes());
    code.extend([0x31, 0xd2]); // xor edx, edx
    code.extend([0x41, 0xba, 8, 0, 0, 0]); // mov r10d, the length of a signal set
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 34, 0, 0, 0]); // mov eax, SYS_pause
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xeb, 0xf7]); // once more
    code.resize((ACTION - ENTRY) as usize, 0);
    // SIG_IGN, and neither flags nor a mask.
    let action = [1_u64, 0, 0, 0];
    code.extend(action.iter().flat_map(|field| field.to_le_bytes()));

    let length = u64::from(ENTRY) + code.len() as u64;
    let mut image = header();
    image.extend(segment(length));
    image.extend(code);
    image
}

/// `Elf64_Ehdr`.
fn header() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(2_u16.to_le_bytes()); // ET_EXEC
    header.extend(62_u16.to_le_bytes()); // EM_X86_64
    header.extend(1_u32.to_le_bytes());
    header.extend(u64::from(BASE + ENTRY).to_le_bytes());
    header.extend(u64::from(HEADERS[0]).to_le_bytes()); // where the program header is
    header.extend([0; 12]);
    for field in [HEADERS[0], HEADERS[1], 1, 0, 0, 0] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// `Elf64_Phdr`: all of the file, to be read and executed.
fn segment(length: u64) -> Vec<u8> {
    let mut segment = 1_u32.to_le_bytes().to_vec(); // PT_LOAD
    segment.extend(5_u32.to_le_bytes()); // PF_R | PF_X
    for field in [0, u64::from(BASE), u64::from(BASE), length, length, 4096] {
        segment.extend(field.to_le_bytes());
    }
    segment
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_waits_until_it_is_killed_and_leaves_no_zombie() {
        let root = std::env::temp_dir().join(format!("holder-{}", std::process::id()));
        fs::create_dir_all(&root).expect("directory");
        install(&root).expect("installed");
        let program = root.join("pause");
        assert_eq!(fs::read(&program).expect("read").len(), 192);
        let mut child = Command::new(&program).spawn().expect("started");
        let status = format!("/proc/{}/status", child.id());
        let ignores_children = |status: &str| {
            let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let mask = u64::from_str_radix(ignored.expect("a mask").trim(), 16).expect("a number");
            mask & (1 << 16) != 0
        };
        while !ignores_children(&fs::read_to_string(&status).expect("it runs")) {
            std::thread::yield_now();
        }
        assert!(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        assert_eq!(child.wait().expect("waited").signal(), Some(libc::SIGKILL));
        fs::remove_dir_all(&root).expect("remove");
    }
}
