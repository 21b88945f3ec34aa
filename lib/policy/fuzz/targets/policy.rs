//! Bytes as a policy: whatever is read is written as it is read, and can be told in sentences.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trefoil_policy::{Policy, diff};

fuzz_target!(|bytes: &[u8]| {
    let Ok(policy) = Policy::from_json(bytes) else {
        return;
    };
    let written = policy.to_json().expect("what was read can be written");
    let again = Policy::from_json(&written).expect("what was written can be read");
    assert_eq!(again, policy);
    assert_eq!(again.to_json().expect("written"), written);
    assert!(diff(&policy, &again).is_empty());
    for line in policy.explain() {
        assert!(!line.is_empty());
    }
});
