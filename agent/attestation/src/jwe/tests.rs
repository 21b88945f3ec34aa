use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::encoding::to_url;

/// The private key of RFC 7518's appendix C.
const BOB: &str = "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw";

/// Made by jwcrypto, for that key, with names of both parties.
const BY_JWCRYPTO: &str = concat!(
    r#"{"protected":"#,
    "\"",
    "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImFwdSI6IlFXeHBZMlUiLCJhcHYiOiJRbTlpIiwiZW5jIjoi",
    "QTI1NkdDTSIsImVwayI6eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVDIiwieCI6IjRNVXhBblg4VlNnRlU0",
    "aUJFUjZQTlNmeFNhSExyVENVcmFjZkRnR2phZU0iLCJ5IjoiMVVWd3I1NlpONFcyT0pZSThfSmNLei11",
    "Y05XTi1VbVhFaEVaclk5bklKUSJ9fQ",
    "\"",
    r#","encrypted_key":"#,
    "\"",
    "-snlGJ0CWTCsFeOBqZrdLKqDIzr2pXGSJ3TjczkiwQBCO8RtOUpo3A",
    "\"",
    r#","iv":"#,
    "\"",
    "4FgJYTsMk_SVrwD1",
    "\"",
    r#","ciphertext":"#,
    "\"",
    "9t97mYOgEoxGpN_k8PDAEAEdYjY1izveI0TNNg",
    "\"",
    r#","tag":"#,
    "\"",
    "dRxuMGvCZGXQfmaOdyG0Tw",
    "\"",
    "}",
);

/// Made by pyca/cryptography, with data that is authenticated besides, and a header over several lines.
const BY_CRYPTOGRAPHY: &str = concat!(
    r#"{"protected":"#,
    "\"",
    "ewogImVwayI6IHsKICAieSI6ICJVUUNyVWlnU3BvYWFSVm55dGJCSDl1NVR1Y19NaXN5SGlOaWZCRjg3",
    "ak5jIiwKICAieCI6ICJEaVVYTmJKLVZQQklTY3E3ZlYwYi1GN0F4dmZDNmtHdDA0SGZScFZEYWRNIiwK",
    "ICAiY3J2IjogIlAtMjU2IiwKICAia3R5IjogIkVDIgogfSwKICJlbmMiOiAiQTI1NkdDTSIsCiAiYWxn",
    "IjogIkVDREgtRVMrQTI1NktXIgp9",
    "\"",
    r#","encrypted_key":"#,
    "\"",
    "jjV7_2C0OMWTN7GhKMlaXOrSh5DprBhaGGHwZEkGoEzvaAeHVwaJyA",
    "\"",
    r#","iv":"#,
    "\"",
    "7kQidFzLCMRPvHT2",
    "\"",
    r#","ciphertext":"#,
    "\"",
    "4IF0Cjh0UreX",
    "\"",
    r#","tag":"#,
    "\"",
    "FwHnHlvylzAGFShY5kGIYw",
    "\"",
    r#","aad":"#,
    "\"",
    "bW9yZQ",
    "\"",
    "}",
);

fn bob() -> TeeKey {
    TeeKey::of(&from_url(BOB).expect("base64"))
}

fn changed(change: impl Fn(&mut Value)) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut jwe: Value = serde_json::from_str(BY_JWCRYPTO).expect("JSON");
    change(&mut jwe);
    open(jwe.to_string().as_bytes(), &bob())
}

/// With a header that says this otherwise. What is authenticated is then wrong, too; but that is not looked
/// at before the header is understood.
fn with_header(name: &str, value: Value) -> String {
    let why = changed(|jwe| {
        let header = from_url(jwe["protected"].as_str().expect("text")).expect("base64");
        let mut header: Value = serde_json::from_slice(&header).expect("JSON");
        header[name] = value.clone();
        jwe["protected"] = to_url(header.to_string().as_bytes()).into();
    });
    why.expect_err("refused").to_string()
}

#[test]
fn what_others_encrypt_is_decrypted() {
    let secret = open(BY_JWCRYPTO.as_bytes(), &bob()).expect("decrypt");
    assert_eq!(&**secret, b"the secret of RFC 7518's Bob");
    let secret = open(BY_CRYPTOGRAPHY.as_bytes(), &bob()).expect("decrypt");
    assert_eq!(&**secret, b"with more");
}

#[test]
fn what_is_for_another_key_is_not() {
    let other = TeeKey::generate().expect("a key");
    let why = open(BY_JWCRYPTO.as_bytes(), &other).expect_err("another key");
    assert!(why.to_string().contains("another key"), "{why}");
}

#[test]
fn no_part_may_be_changed() {
    let whole: Value = serde_json::from_str(BY_JWCRYPTO).expect("JSON");
    for (name, value) in whole.as_object().expect("parts") {
        let bytes = from_url(value.as_str().expect("text")).expect("base64");
        // The first and the last byte of the header are its braces.
        for at in [1, bytes.len() / 2, bytes.len() - 2] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            changed(|jwe| jwe[name] = to_url(&bytes).into()).expect_err(name);
        }
        changed(|jwe| jwe[name] = to_url(&bytes[1..]).into()).expect_err(name);
        changed(|jwe| jwe[name] = "".into()).expect_err(name);
        changed(|jwe| jwe[name] = format!("{}=", value.as_str().expect("text")).into())
            .expect_err(name);
    }
    changed(|jwe| jwe["aad"] = "bW9yZQ".into()).expect_err("aad");
    changed(|jwe| jwe["aad"] = "".into()).expect_err("an empty aad");
}

#[test]
fn what_the_header_asks_for_beyond_the_protocol_is_refused() {
    for (name, value, named) in [
        ("alg", json!("dir"), "dir"),
        ("alg", json!("RSA-OAEP-256"), "RSA-OAEP-256"),
        ("enc", json!("A128GCM"), "A128GCM"),
        ("zip", json!("DEF"), "zip"),
        ("crit", json!(["exp"]), "crit"),
        (
            "epk",
            json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
            "decrypted",
        ),
        ("alg", json!(1), "header"),
    ] {
        let why = with_header(name, value);
        assert!(why.contains(named), "{why}");
    }
    let why = changed(|jwe| jwe["protected"] = "A".repeat(LONGEST_HEADER + 4).into());
    assert!(why.expect_err("too long").to_string().contains("longer"));
}

proptest! {
    #[test]
    fn any_text_is_refused(text in "\\PC{0,100}") {
        prop_assert!(open(text.as_bytes(), &bob()).is_err());
    }
}

proptest! {
    // Each multiplies points.
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_other_content_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(changed(|jwe| jwe["ciphertext"] = to_url(&bytes).into()).is_err());
    }
}
