//! Reading the process of an exec request.

use oci_spec::runtime::Process;
use serde_json::Value;
use trefoil_os::{Error, Result};

use crate::capabilities;

/// Reads the JSON of an exec request's `spec`. Capabilities that this build has never heard of are
/// left out, as stock runtimes do; anything else that is malformed is an error.
///
/// # Errors
/// What is malformed, which is [invalid](Error::is_invalid).
pub fn parse_process(json: &[u8]) -> Result<Process> {
    let invalid =
        |error: serde_json::Error| Error::invalid("read the process to run", error.to_string());
    let mut value: Value = serde_json::from_slice(json).map_err(invalid)?;
    capabilities::leave_out_unknown(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;
    use proptest::prelude::*;

    #[test]
    fn unknown_capabilities_are_left_out() {
        let json = br#"{"user":{"uid":1,"gid":2},"args":["a"],"cwd":"/",
            "capabilities":{"bounding":["CAP_KILL","CAP_FLY"],"effective":["CAP_FLY"]}}"#;
        let process = parse_process(json).unwrap();
        let sets = process.capabilities().clone().unwrap();
        let bounding: Vec<_> = sets.bounding().iter().flatten().copied().collect();
        assert_eq!(bounding, [Capability::Kill]);
        assert_eq!(sets.effective().iter().flatten().count(), 0);
    }

    #[test]
    fn other_mistakes_are_named() {
        let error = parse_process(br#"{"args":["a"],"cwd":"/"}"#).unwrap_err();
        assert!(error.to_string().contains("user"), "{error}");
        assert!(parse_process(b"{").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_process(&bytes);
        }
    }
}
