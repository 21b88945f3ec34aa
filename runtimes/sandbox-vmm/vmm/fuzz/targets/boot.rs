//! A kernel and an initramfs of any content.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::boot::fuzz(bytes));
