//! Why a kernel can't be started.

use std::io;

use crate::layout;

/// Why a kernel can't be started.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// read the kernel: {0}
    #[error("read the kernel: {0}")]
    Read(io::Error),
    /// the kernel is neither an ELF file nor a bzImage
    #[error("the kernel is neither an ELF file nor a bzImage")]
    Format,
    /// load the kernel: {0}
    #[error("load the kernel: {0}")]
    Load(linux_loader::loader::Error),
    /// the kernel can't be loaded as an ELF file: {0}
    #[error("the kernel can't be loaded as an ELF file: {0}")]
    Elf(&'static str),
    /// the ELF kernel has no PVH entry
    #[error("the ELF kernel has no PVH entry (CONFIG_PVH)")]
    NoPvh,
    /// the bzImage has no 64-bit entry
    #[error("the bzImage has no 64-bit entry")]
    No64,
    /// the kernel needs more memory than the guest has
    #[error("the kernel needs memory up to {needed:#x}, and the guest's ends at {end:#x}")]
    Memory {
        /// Where the kernel ends once it has been unpacked.
        needed: u64,
        /// Where the memory below the devices ends.
        end: u64,
    },
    /// the initramfs does not fit
    #[error("the initramfs of {0} bytes does not fit behind the kernel")]
    Initramfs(u64),
    /// read the initramfs: {0}
    #[error("read the initramfs: {0}")]
    ReadInitramfs(String),
    /// the command line is too long
    #[error(
        "the kernel's command line has {0} bytes, and may have {most}",
        most = layout::COMMAND_LINE_SIZE - 1
    )]
    CommandLine(usize),
    /// the command line holds a zero byte
    #[error("the kernel's command line holds a zero byte")]
    ZeroByte,
    /// tell the kernel of its machine: {0}
    #[error("tell the kernel of its machine: {0}")]
    Acpi(#[from] trefoil_acpi::TooLong),
    /// begin at the kernel's entry: {0}
    #[error("begin at the kernel's entry: {0}")]
    Entry(crate::cpu::Failure),
    /// write what the kernel reads at first: {0}
    #[error("write what the kernel reads at first: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
}
