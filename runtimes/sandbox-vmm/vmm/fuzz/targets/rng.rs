//! A guest that does as it likes with the source of random numbers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_vmm::devices::rng::fuzz(bytes));
