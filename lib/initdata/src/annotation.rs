//! The pod's annotation: base64 of gzip of the document.
//!
//! The host undoes it, with bounds on either side of the decompression. The guest never sees it.

use std::io::{Read, Write};

use base64ct::{Base64, Encoding};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::document::LONGEST;
use crate::{Error, Result};

/// No annotation's value is longer, in bytes: Kubernetes takes no more of all annotations of a pod's.
pub const LONGEST_VALUE: usize = 256 << 10;

/// The document of an annotation's value.
///
/// # Errors
/// If the value is too long, not base64, not gzip, or holds more than [`LONGEST`] bytes: these are never
/// decompressed.
pub fn decode(value: &str) -> Result<Vec<u8>> {
    let wrong = |what: String| Error::Annotation(what);
    let value = value.trim_end();
    if value.len() > LONGEST_VALUE {
        return Err(wrong(format!(
            "has {} bytes, more than {LONGEST_VALUE}",
            value.len()
        )));
    }
    // `base64` of the coreutils breaks lines, and a manifest may keep them.
    let value: String = value.lines().map(str::trim).collect();
    let packed = Base64::decode_vec(&value)
        .map_err(|_| wrong("is not base64 of the standard alphabet".into()))?;
    let mut document = Vec::new();
    // One byte more than may be: that there are too many is seen without decompressing the rest.
    let mut unpacked = GzDecoder::new(packed.as_slice()).take(LONGEST as u64 + 1);
    unpacked
        .read_to_end(&mut document)
        .map_err(|why| wrong(format!("is not base64 of gzip: {why}")))?;
    if document.len() > LONGEST {
        return Err(wrong(format!(
            "unpacks to more than {LONGEST} bytes, and a document has no more"
        )));
    }
    Ok(document)
}

/// The annotation's value of a document. The same document gives the same value.
///
/// # Errors
/// If it is longer than [`LONGEST_VALUE`].
pub fn encode(document: &str) -> Result<String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    let packed = packed
        .write_all(document.as_bytes())
        .and_then(|()| packed.finish())
        .map_err(|why| Error::Annotation(format!("can't be made: {why}")))?;
    let value = Base64::encode_string(&packed);
    match value.len() {
        ..=LONGEST_VALUE => Ok(value),
        length => Err(Error::Annotation(format!(
            "would have {length} bytes, more than {LONGEST_VALUE}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> String {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(bytes).expect("pack");
        Base64::encode_string(&packed.finish().expect("pack"))
    }

    #[test]
    fn a_document_comes_out_as_it_went_in() {
        let document = "version = \"0.1.0\"\n".repeat(100);
        let value = encode(&document).expect("encode");
        assert_eq!(value, encode(&document).expect("encode"));
        assert_eq!(decode(&value).expect("decode"), document.as_bytes());
        let (first, rest) = value.split_at(20);
        let broken = format!("{first}\n  {rest}\n");
        assert_eq!(decode(&broken).expect("decode"), document.as_bytes());
    }

    #[test]
    fn what_other_tools_pack_is_understood() {
        // printf 'version = "0.1.0"\n' | gzip -n | base64
        let value = "H4sIAAAAAAAAAytLLSrOzM9TsFVQMtAz1DNQ4gIA7xmeqhIAAAA=";
        assert_eq!(decode(value).expect("decode"), b"version = \"0.1.0\"\n");
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let most = vec![b'a'; LONGEST];
        assert_eq!(decode(&gzip(&most)).expect("as much as may be"), most);
        for length in [LONGEST + 1, 64 << 20] {
            let why = decode(&gzip(&vec![0; length])).expect_err("too much");
            assert!(why.to_string().contains("unpacks to more than"), "{why}");
        }
    }

    #[test]
    fn what_is_no_annotation_is_refused_in_a_sentence() {
        let cut = &gzip(b"a document")[..24];
        for (value, named) in [
            ("a".repeat(LONGEST_VALUE + 4), "more than"),
            ("%%%%".into(), "not base64 of the standard"),
            ("AAAA".into(), "gzip"),
            (cut.to_owned(), "gzip"),
            (String::new(), "gzip"),
        ] {
            let why = decode(&value).expect_err(named).to_string();
            assert!(why.contains(named) && why.len() < 512, "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_decoded_or_refused(value in "\\PC{0,200}") {
            let _ = decode(&value);
        }
    }
}
