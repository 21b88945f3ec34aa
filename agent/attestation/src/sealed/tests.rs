use proptest::prelude::*;
use serde_json::json;
use trefoil_broker::sealing::Sealer;

use super::*;

const SIGNER: &str = "kbs:///default/keys/signer";
const SECRET: &str = "kbs:///default/db/password";

/// Signed by jwcrypto.
const BY_JWCRYPTO: &str = concat!(
    "sealed.eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImticzovLy9kZWZhdWx0L2tleXMvc2lnbmVyIn0.",
    "eyJ2ZXJzaW9uIjogIjAuMS4wIiwgInR5cGUiOiAidmF1bHQiLCAibmFtZSI6ICJrYnM6Ly8vZGVmYXVs",
    "dC9kYi9wYXNzd29yZCIsICJwcm92aWRlciI6ICJrYnMiLCAicHJvdmlkZXJfc2V0dGluZ3MiOiB7fSwg",
    "ImFubm90YXRpb25zIjoge319.",
    "k1CvLvMdK6ENO4Rl7tiel7AaqGXrqxTRRvwOG510m3cyomyuuyeFf90gebEC8WyU5-0lXE41d355ymvG6JnZ3Q",
);
const ITS_SIGNER: &str = r#"{"crv":"P-256","kty":"EC","x":"3QaoaDwcMdPATcHfQMLDOxXSbh6AFkWEbhXuF6iYwjc",
    "y":"6uPlYVM3vUK-M2btDci75otAPHnDVA1rihOXM2pXdz0"}"#;

fn uri(text: &str) -> ResourceUri {
    text.parse().expect("a resource")
}

fn resources(signer: &[u8], secret: &[u8]) -> Resources {
    let held = [(SIGNER, signer), (SECRET, secret)];
    held.map(|(name, bytes)| (uri(name), Zeroizing::new(bytes.to_vec())))
        .into()
}

fn open(sealed: &str, resources: &Resources) -> Result<Vec<u8>, Failure> {
    let sealed = Sealed::parse(sealed)?.expect("sealed");
    Ok(sealed.open(&uri(SIGNER), resources)?.to_vec())
}

#[test]
fn what_is_not_sealed_is_itself() {
    for value in ["", "sealed", "seale.d", " sealed.a.b.c", "Sealed.a"] {
        assert!(Sealed::parse(value).expect("sound").is_none(), "{value}");
    }
}

#[test]
fn what_others_have_signed_is_opened() {
    let held = resources(ITS_SIGNER.as_bytes(), b"hunter2");
    let sealed = Sealed::parse(BY_JWCRYPTO).expect("sound").expect("sealed");
    assert_eq!((sealed.signer(), sealed.resource()), (SIGNER, &uri(SECRET)));
    assert_eq!(open(BY_JWCRYPTO, &held).expect("open"), b"hunter2");
}

#[test]
fn an_envelope_is_opened_with_the_resource() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let envelope = sealer
        .envelope(b"in the envelope", SECRET, [7; 32])
        .expect("seal");
    let held = resources(&sealer.jwk(), &[7; 32]);
    assert_eq!(open(&envelope, &held).expect("open"), b"in the envelope");
    for key in [&[8; 32][..], &[7; 31], b""] {
        let why = open(&envelope, &resources(&sealer.jwk(), key)).expect_err("another key");
        assert!(why.to_string().contains("does not decrypt"), "{why}");
    }
}

#[test]
fn what_somebody_else_has_signed_is_not_opened() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let other = Sealer::new(SIGNER).expect("another");
    let held = resources(&sealer.jwk(), b"hunter2");
    let why = open(&other.vault(SECRET).expect("seal"), &held).expect_err("another signer");
    assert!(why.to_string().contains("was not signed by"), "{why}");
    // Each byte of it is signed.
    let sound = sealer.vault(SECRET).expect("seal");
    open(&sound, &held).expect("sound");
    for at in PREFIX.len()..sound.len() {
        let mut bytes = sound.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        if let Ok(text) = String::from_utf8(bytes) {
            assert!(open(&text, &held).is_err(), "{at}");
        }
    }
    for no_key in [
        &b""[..],
        b"{}",
        b"PEM",
        br#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
    ] {
        open(&sound, &resources(no_key, b"")).expect_err("no key");
    }
    open(&sound, &Resources::new()).expect_err("nothing is held");
}

#[test]
fn what_a_payload_asks_for_beyond_the_format_is_refused() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let sound = json!({"version": "0.1.0", "type": "vault", "name": SECRET, "provider": "kbs",
                       "provider_settings": {}, "annotations": {}});
    let held = resources(&sealer.jwk(), b"hunter2");
    open(&sealer.seal(&sound).expect("seal"), &held).expect("sound");
    for (name, value, named) in [
        ("version", json!("0.2.0"), "0.2.0"),
        ("provider", json!("aliyun"), "aliyun"),
        ("provider_settings", json!({"a": "b"}), "settings"),
        ("type", json!("other"), "other"),
        ("name", json!("kbs://elsewhere/a/b/c"), "broker of its own"),
        ("name", json!(null), "payload"),
    ] {
        let mut payload = sound.clone();
        payload[name] = value;
        let why = open(&sealer.seal(&payload).expect("seal"), &held).expect_err(named);
        assert!(why.to_string().contains(named), "{why}");
    }
}

#[test]
fn the_placeholders_of_others_are_refused() {
    // What Confidential Containers' tools write where nothing is to be verified.
    let payload = BY_JWCRYPTO.split('.').nth(2).expect("a payload");
    let fake = format!("sealed.fakejwsheader.{payload}.fakesignature");
    assert!(Sealed::parse(&fake).is_err());
    for text in [
        "sealed.",
        "sealed..",
        "sealed...",
        "sealed.a.b",
        "sealed.a.b.c.d",
    ] {
        assert!(Sealed::parse(text).is_err(), "{text}");
    }
    let long = format!("sealed.{}", "a".repeat(LONGEST + 1));
    assert!(Sealed::parse(&long).is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_in_a_sentence(text in "sealed\\.[A-Za-z0-9_.=-]{0,200}") {
        let why = Sealed::parse(&text).err().expect("refused").to_string();
        prop_assert!(why.len() < 1024 && !why.contains('\n'));
    }
}
