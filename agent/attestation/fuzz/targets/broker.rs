//! A broker that answers what it likes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_attestation::fuzz::answers(bytes));
