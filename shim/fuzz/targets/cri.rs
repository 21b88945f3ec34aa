//! CRI's description of a pod, as containerd hands it on: anything that a kubelet, or somebody in its place,
//! may have sent.

#![no_main]

#[path = "../../src/cri/mod.rs"]
#[expect(dead_code, reason = "the shim uses more of it")]
mod cri;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cri::fuzz::fuzz(bytes));
