//! Base64 of bounded texts.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};

/// Bytes of base64 with the URL's alphabet and without padding, as JOSE has it.
pub(crate) fn from_url(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

/// So many bytes of it.
pub(crate) fn array_from_url<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    from_url(text)?.try_into().ok()
}

/// The reverse.
pub(crate) fn to_url(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Bytes of base64 with the standard alphabet and padding.
pub(crate) fn from_standard(text: &str) -> Option<Vec<u8>> {
    Base64::decode_vec(text).ok()
}

/// The reverse.
pub(crate) fn to_standard(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}
