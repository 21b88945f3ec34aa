//! What the evidence binds: the broker's nonce and the guest's key.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use serde_json::{Value, json};

use crate::Failure;
use crate::encoding::{from_standard, to_url};
use crate::evidence::REPORT_DATA;
use crate::key::{ALGORITHM, CURVE, TeeKey};

/// The size of a nonce, in bytes.
const NONCE: usize = 32;

/// The algorithms that a broker may choose of, as the protocol names them.
pub(crate) const HASHES: [&str; 3] = ["sha256", "sha384", "sha512"];

/// The one that it means where it chooses none.
const DEFAULT_HASH: &str = "sha384";

/// Nonce and key of one exchange.
pub(crate) struct RuntimeData {
    nonce: String,
    x: String,
    y: String,
}

impl RuntimeData {
    /// Those of a broker's challenge.
    ///
    /// # Errors
    /// If the nonce is not base64 of 32 bytes. Anything else would get into what is signed.
    pub(crate) fn new(nonce: &str, key: &TeeKey) -> Result<Self, Failure> {
        if from_standard(nonce).is_none_or(|bytes| bytes.len() != NONCE) {
            return Err(Failure::wrong(format!(
                "the nonce is not base64 of {NONCE} bytes"
            )));
        }
        let (x, y) = key.public();
        Ok(Self {
            nonce: nonce.to_owned(),
            x: to_url(&x),
            y: to_url(&y),
        })
    }

    /// As it is sent.
    pub(crate) fn json(&self, key: &TeeKey) -> Value {
        json!({"nonce": self.nonce, "tee-pubkey": key.jwk()})
    }

    /// The bytes for the evidence: the digest of the canonical JSON, and zeros.
    pub(crate) fn report_data(&self, hash: &'static Algorithm) -> [u8; REPORT_DATA] {
        let digest = digest(hash, self.canonical().as_bytes());
        let mut data = [0; REPORT_DATA];
        for (byte, of_digest) in data.iter_mut().zip(digest.as_ref()) {
            *byte = *of_digest;
        }
        data
    }

    /// RFC 8785: keys in order, no blanks. No value has a character that is escaped.
    fn canonical(&self) -> String {
        format!(
            "{{\"additional-evidence\":\"\",\"nonce\":\"{}\",\"tee-pubkey\":{{\"alg\":\"{ALGORITHM}\",\
             \"crv\":\"{CURVE}\",\"kty\":\"EC\",\"x\":\"{}\",\"y\":\"{}\"}}}}",
            self.nonce, self.x, self.y
        )
    }
}

/// The algorithm that a challenge chooses by its `extra-params`.
///
/// # Errors
/// If it is none of those that were offered.
pub(crate) fn hash_of(extra: &Value) -> Result<&'static Algorithm, Failure> {
    let name = match extra.get("selected-hash-algorithm") {
        None => DEFAULT_HASH,
        Some(chosen) => chosen.as_str().unwrap_or_default(),
    };
    match name.to_ascii_lowercase().as_str() {
        "sha256" => Ok(&SHA256),
        "sha384" => Ok(&SHA384),
        "sha512" => Ok(&SHA512),
        _ => Err(Failure::wrong(format!(
            "the hash algorithm {name:?} was not offered; offered: {}",
            HASHES.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE_TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn the_canonical_form_is_that_of_sorted_keys() {
        let key = TeeKey::generate().expect("a key");
        let data = RuntimeData::new(NONCE_TEXT, &key).expect("a nonce");
        let canonical = data.canonical();
        let parsed: std::collections::BTreeMap<String, Value> =
            serde_json::from_str(&canonical).expect("JSON");
        let mut jwk: std::collections::BTreeMap<String, Value> =
            serde_json::from_value(key.jwk()).expect("a map");
        assert_eq!(parsed["nonce"], NONCE_TEXT);
        assert_eq!(parsed["tee-pubkey"], key.jwk());
        // Ordered maps write sorted keys, and nothing here is escaped or a number.
        jwk.retain(|_, value| value.is_string());
        let sorted = format!(
            "{{\"additional-evidence\":\"\",\"nonce\":\"{NONCE_TEXT}\",\"tee-pubkey\":{}}}",
            serde_json::to_string(&jwk).expect("JSON")
        );
        assert_eq!(canonical, sorted);
    }

    #[test]
    fn a_shorter_digest_is_followed_by_zeros() {
        let key = TeeKey::generate().expect("a key");
        let data = RuntimeData::new(NONCE_TEXT, &key).expect("a nonce");
        for (hash, size) in [(&SHA256, 32), (&SHA384, 48), (&SHA512, 64)] {
            let report_data = data.report_data(hash);
            assert!(report_data[..size].iter().any(|byte| *byte != 0));
            assert!(report_data[size..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_nonce_of_another_size_is_refused() {
        let key = TeeKey::generate().expect("a key");
        for nonce in [
            "",
            "AAAA",
            "x",
            &"A".repeat(64),
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            assert!(RuntimeData::new(nonce, &key).is_err(), "{nonce}");
        }
    }

    #[test]
    fn the_broker_chooses_a_hash_of_those_offered() {
        assert_eq!(hash_of(&json!("")).expect("the default"), &SHA384);
        for (name, hash) in [("sha256", &SHA256), ("SHA512", &SHA512)] {
            let extra = json!({"selected-hash-algorithm": name});
            assert_eq!(hash_of(&extra).expect(name), hash);
        }
        for name in [json!("md5"), json!(1), json!(null), json!("")] {
            hash_of(&json!({ "selected-hash-algorithm": name })).expect_err("not offered");
        }
    }
}
