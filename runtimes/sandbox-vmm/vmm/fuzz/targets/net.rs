//! A guest that does as it likes with its network interface.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::net::fuzz(bytes));
