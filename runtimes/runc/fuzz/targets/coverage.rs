//! What the container's own processes reach counts as reached by the input. They are forked, so that
//! their copy of the fuzzer's counters would end with them; here it is no copy.

use std::ffi::c_void;

use nix::libc;

// Where the section begins and ends that the counters of all edges are in, by the linker's names. Source:
// clang's SanitizerCoverage, "inline-8bit-counters". Declared in Rust, these names would be taken from
// the compiler's own use of them in this crate.
std::arch::global_asm!(
    ".pushsection .data.rel.ro.counters, \"aw\"",
    ".balign 8",
    "ends_of_counters:",
    ".quad __start___sancov_cntrs, __stop___sancov_cntrs",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "ends_of_counters"]
    static ENDS: [*mut u8; 2];
}

/// Shares the counters with all processes that are forked from now on, but for those of the first and
/// last page, which hold other things too. The calling process must be single-threaded still.
pub fn share() {
    // SAFETY: sysconf takes a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    // SAFETY: the linker made them, and nobody changes them.
    let [first, end] = unsafe { ENDS };
    let counters = first.map_addr(|first| first.next_multiple_of(page));
    let length = (end.addr() / page * page).saturating_sub(counters.addr());
    assert!(length > 0, "there is no whole page of counters");
    // SAFETY: the pages hold counters alone, nobody else runs, and they hold the same afterwards.
    unsafe {
        let before = std::slice::from_raw_parts(counters, length).to_vec();
        let mapped = libc::mmap(
            counters.cast::<c_void>(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        assert_eq!(
            mapped,
            counters.cast(),
            "{}",
            std::io::Error::last_os_error()
        );
        counters.copy_from_nonoverlapping(before.as_ptr(), before.len());
    }
}
