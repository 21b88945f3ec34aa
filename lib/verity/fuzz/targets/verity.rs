//! What lies beside and behind a layer: containerd's sidecar, and a superblock.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_verity::testing::metadata(bytes));
