//! A guest that does as it likes with the serial line.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::serial::fuzz(bytes));
