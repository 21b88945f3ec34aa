//! What anybody may have written, chosen by a fuzzer.

use crate::{BoundDigest, Broker, Field, Initdata, annotation};

/// Bytes as an annotation's value, and as a document. What is a document is the same when it is written and
/// read again, bound, and is not bound by any other digest.
///
/// # Panics
/// Where that does not hold.
#[expect(clippy::expect_used, reason = "a finding is a panic")]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = annotation::decode(text);
    }
    let other = BoundDigest::of_report(Field::HostData, &[0; 32]).expect("a digest");
    assert!(Initdata::open(bytes, &other).is_err());
    for field in [Field::HostData, Field::MrConfigId] {
        let Ok(initdata) = Initdata::read(bytes, field) else {
            continue;
        };
        let bound = BoundDigest::of(bytes, field).expect("a document has a digest");
        assert_eq!(Initdata::open(bytes, &bound).as_ref(), Ok(&initdata));
        // What has many escapes may grow when it is written anew.
        if let Ok(written) = initdata.write(field) {
            let again = Initdata::read(written.as_bytes(), field).expect("what was written");
            assert_eq!(again, initdata);
        }
        let _ = Broker::of(&initdata);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_keep_to_the_rules(
            head in "(version = \"0.1.0\"\nalgorithm = \"sha(256|384)\"\n\\[data\\]\n\"(aa|cdh).toml\" = )?",
            value in "('''|\")?[a-z\\[\\]=\"'\n\\\\.:/]{0,60}('''|\")?",
        ) {
            fuzz(format!("{head}{value}").as_bytes());
        }
    }
}
