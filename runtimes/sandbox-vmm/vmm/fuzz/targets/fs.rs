//! A guest that does as it likes with a file system's front end.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::fs::fuzz(bytes));
