//! Initdata of a host that has not been compared with anything, and an annotation of anybody's.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_initdata::fuzz(bytes));
