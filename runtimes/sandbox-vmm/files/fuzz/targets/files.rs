//! A guest that asks the file server for what it likes. It takes root.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trefoil_files::passthrough::fuzz(bytes));
