//! System calls that a kernel may have and this build's libseccomp may not know.
//!
//! A profile that allows `fchmodat2` means it, whatever library the runtime was built with. Since
//! Linux 5.1 a new call has the same number on every architecture built for here
//! (`scripts/syscall.tbl` and `arch/x86/entry/syscalls/` in the kernel's source).

use libseccomp::{ScmpArch, ScmpSyscall};

/// What tells the x32 interface's numbers from x86_64's (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 1 << 30;

/// Names and numbers, oldest first; up to Linux 7.0.
const CALLS: [(&str, u32); 23] = [
    ("futex_waitv", 449),
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
    ("rseq_slice_yield", 471),
];

/// The number of a call of the table above.
pub(super) fn number(name: &str) -> Option<u32> {
    CALLS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// The number of any call on an architecture, if that has it.
pub(super) fn number_on(name: &str, arch: ScmpArch) -> Option<u32> {
    match ScmpSyscall::from_name_by_arch(name, arch) {
        // Negative numbers stand for calls that an architecture lacks.
        Ok(known) => u32::try_from(known.as_raw_syscall()).ok(),
        Err(_) => match (arch, name) {
            // Made by the kernel's own trampolines, on this architecture alone.
            (ScmpArch::X8664, "uretprobe") => Some(335),
            (ScmpArch::X8664, "uprobe") => Some(336),
            (ScmpArch::X32, _) => number(name).map(|number| number | X32_BIT),
            _ => number(name),
        },
    }
}
