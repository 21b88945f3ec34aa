//! A parent that says anything.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::control::fuzz(bytes));
