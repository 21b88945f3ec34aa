//! A guest that reads and writes any address and port, in any order.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::bus::fuzz(bytes));
