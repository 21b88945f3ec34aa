//! The program that containers run: it exits with 0, and is as small as a program can be.

/// The headers' size.
const HEADERS: u64 = 64 + 56;
/// Where the kernel is to map it.
const ADDRESS: u64 = 0x40_0000;

/// `exit(0)`
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 9] = [0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `mov x0, #0; mov x8, #93; svc #0`
#[cfg(target_arch = "aarch64")]
const CODE: [u8; 12] = [0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The file: a header, one segment of everything, and the code. Source: elf(5).
pub fn bytes() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |number: u16| number.to_le_bytes();
    file.extend(half(2));
    file.extend(half(MACHINE));
    file.extend(1_u32.to_le_bytes());
    for number in [ADDRESS + HEADERS, 64, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for number in [64, 56, 1, 0, 0, 0] {
        file.extend(half(number));
    }
    // Loaded, to be read and executed.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    for number in [0, ADDRESS, ADDRESS, size, size, 4096] {
        file.extend(number.to_le_bytes());
    }
    file.extend(CODE);
    file
}
