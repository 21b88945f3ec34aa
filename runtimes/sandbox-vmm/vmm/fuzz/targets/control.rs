//! A parent that says anything.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    use trefoil_vmm::machine::control::fuzzing;
    fuzzing::messages(bytes);
    fuzzing::requests(bytes);
    fuzzing::launch::<trefoil_vmm::configuration::Configuration>(bytes);
});
