//! A guest and a host that do as they like with their connections.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::vsock::fuzz(bytes));
