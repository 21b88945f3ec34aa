//! Keeping a quiet process small.
//!
//! Doing something touches code all over the binary, and each touch maps 64 KiB around it; what was
//! allocated for it stays with the allocator. A shim serves a few requests in its first second and then
//! hardly any for days, once per pod on the node, and so does its helper. What has been quiet for a while
//! lets go of both; what it needs again it maps again, from the page cache.

use nix::sys::mman::{MmapAdvise, madvise};

/// Lets go of the memory that is not needed to wait.
pub fn release() {
    // SAFETY: it takes a number, and gives back pages that nothing has been allocated from.
    unsafe { libc::malloc_trim(0) };
    release_program();
}

/// Unmaps the pages of the binary's read-only segments; they are mapped again when they are touched.
fn release_program() {
    let page = 4096;
    for header in program_headers() {
        let read_only = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        let start = usize::try_from(header.p_vaddr).unwrap_or(0);
        let length = usize::try_from(header.p_memsz).unwrap_or(0);
        let first = start.next_multiple_of(page);
        let Some(length) = (start + length).checked_sub(first).filter(|_| read_only) else {
            continue;
        };
        if let Some(first) = std::ptr::NonNull::new(first as *mut libc::c_void) {
            // SAFETY: the range lies within a segment of this program that is loaded at the address its
            // header names (it is linked at a fixed one) and is never writable: its pages are those of the
            // file, and the kernel reads them again when they are touched. What is relocated at start-up
            // and read-only afterwards belongs to a writable segment, which is left alone.
            let _ = unsafe { madvise(first, length, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

/// How this program was loaded; nothing if it was linked to be loaded anywhere.
fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: getauxval takes a number.
    let (address, count, entry) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR),
            libc::getauxval(libc::AT_PHNUM),
            libc::getauxval(libc::AT_PHENT),
        )
    };
    let expected = size_of::<libc::Elf64_Phdr>() as u64;
    if address == 0 || entry != expected {
        return &[];
    }
    // SAFETY: the kernel put `count` headers of this size at this address before the program began, in a
    // segment that stays mapped.
    let headers = unsafe {
        std::slice::from_raw_parts(
            address as *const libc::Elf64_Phdr,
            usize::try_from(count).unwrap_or(0),
        )
    };
    // A fixed address is one at which the headers themselves are to be found.
    let fixed = headers.iter().any(|header| {
        header.p_type == libc::PT_LOAD
            && (header.p_vaddr..header.p_vaddr + header.p_memsz).contains(&address)
    });
    if fixed { headers } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped_of_file() -> u64 {
        kilobytes("Pss_File:")
    }

    fn anonymous() -> u64 {
        kilobytes("Anonymous:")
    }

    fn kilobytes(field: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.expect(field)
    }

    #[test]
    fn what_was_freed_goes_back() {
        // Each in the allocator's own memory, and one at its end that stays.
        let many: Vec<_> = (0..4000).map(|_| vec![1_u8; 1000]).collect();
        let _last = vec![1_u8; 1000];
        drop(many);
        let before = anonymous();
        release();
        let after = anonymous();
        assert!(after + 3000 < before, "{before} kB, then {after} kB");
    }

    #[test]
    fn the_program_goes_on_with_less_mapped() {
        assert!(!program_headers().is_empty());
        let before = mapped_of_file();
        release_program();
        let after = mapped_of_file();
        assert!(after < before, "{before} kB, then {after} kB");
    }
}
