//! The amounts that the configuration, and a pod in place of it, can ask for.

/// A VMM makes no more.
const MOST_CPUS: u8 = 64;

/// 16 TiB: more is a slip.
const MOST_MEMORY: u32 = 1 << 24;

/// A number of virtual CPUs.
///
/// # Errors
/// What is wrong with it, to be read after "but".
pub fn cpus(number: u64) -> Result<u8, String> {
    u8::try_from(number)
        .ok()
        .filter(|cpus| (1..=MOST_CPUS).contains(cpus))
        .ok_or_else(|| format!("there may be from 1 to {MOST_CPUS}"))
}

/// An amount of memory in MiB.
///
/// # Errors
/// As [`cpus`].
pub fn mebibytes(number: u64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|mebibytes| (1..=MOST_MEMORY).contains(mebibytes))
        .ok_or_else(|| format!("it may be from 1 to {MOST_MEMORY}"))
}
