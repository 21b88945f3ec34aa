//! A guest that does as it likes with a disk.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::block::fuzz(bytes));
