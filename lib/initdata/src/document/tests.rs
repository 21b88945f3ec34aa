use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

const FIELDS: [Field; 3] = [Field::HostData, Field::MrConfigId, Field::Simulated];

fn with_policy(policy: &str) -> Initdata {
    let mut initdata = Initdata::default();
    initdata.set_policy(policy);
    initdata
}

#[test]
fn a_document_of_confidential_containers_is_read() {
    let document = br#"
algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs]
'''
"cdh.toml" = "[kbc]\n"
"#;
    let bound = BoundDigest::of(document, Field::MrConfigId).expect("digest");
    assert_eq!(bound.bytes().len(), 48);
    let initdata = Initdata::open(document, &bound).expect("open");
    assert_eq!(initdata.get(AA), Some("[token_configs]\n"));
    assert_eq!(initdata.get(CDH), Some("[kbc]\n"));
    assert_eq!(initdata.get(POLICY), None);
}

#[test]
fn the_digest_is_that_of_the_bytes() {
    let document = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n";
    let bound = BoundDigest::of(document, Field::HostData).expect("digest");
    // sha256sum
    let expected: [u8; 32] = Sha256::digest(document).into();
    assert_eq!(bound.bytes(), expected);
}

#[test]
fn what_is_not_bound_is_not_parsed() {
    let bound = BoundDigest::of_report(Field::HostData, &[7; 32]).expect("a digest");
    // What is not TOML at all is told by its digest alone.
    for document in [&b"\xff not TOML"[..], b"", b"algorithm = \"sha384\""] {
        let why = Initdata::open(document, &bound).expect_err("not bound");
        assert!(matches!(why, Error::NotBound { .. }), "{why}");
        assert!(why.to_string().contains("0707070707070707…"), "{why}");
    }
    let long = vec![b'#'; LONGEST + 1];
    let why = Initdata::open(&long, &bound).expect_err("too long");
    assert_eq!(why, Error::TooLong(LONGEST + 1));
}

#[test]
fn a_digest_of_another_size_is_none() {
    for size in [0, 31, 33, 48, 64] {
        assert_eq!(
            BoundDigest::of_report(Field::HostData, &vec![0; size]),
            None
        );
    }
    assert_eq!(BoundDigest::of_report(Field::MrConfigId, &[0; 32]), None);
}

#[test]
fn an_algorithm_that_does_not_fill_the_field_is_refused() {
    for (field, algorithm, needed) in [
        (Field::HostData, "sha384", "sha256"),
        (Field::HostData, "sha512", "sha256"),
        (Field::MrConfigId, "sha256", "sha384"),
        (Field::MrConfigId, "SHA384", "sha384"),
        (Field::Simulated, "sha384", "sha256"),
    ] {
        let document = format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n");
        let of_host = BoundDigest::of(document.as_bytes(), field).expect_err("of the host's");
        // A host that binds the bytes all the same gains nothing.
        let bytes = field.digest(document.as_bytes());
        let bound = BoundDigest::of_report(field, &bytes).expect("a digest");
        let of_guest = Initdata::open(document.as_bytes(), &bound).expect_err("of the guest's");
        assert_eq!(of_host, of_guest);
        let why = of_guest.to_string();
        assert!(why.contains(algorithm) && why.contains(needed), "{why}");
        assert!(why.contains("elsewhere"), "{why}");
    }
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    for (document, named) in [
        (
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\nmore = 1",
            "`more`",
        ),
        ("version = \"0.2.0\"\nalgorithm = \"sha256\"", "0.2.0"),
        ("algorithm = \"sha256\"", "`version`"),
        ("version = \"0.1.0\"", "`algorithm`"),
        (
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = \"\"",
            "policy.rego",
        ),
        (
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = 1",
            "line 4",
        ),
        (
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\nalgorithm = \"sha256\"",
            "line 3",
        ),
    ] {
        let why = Initdata::read(document.as_bytes(), Field::HostData).expect_err(named);
        assert!(why.to_string().contains(named), "{why}");
        assert!(why.to_string().len() <= 512, "{why}");
    }
}

#[test]
fn tables_within_tables_end_in_a_refusal() {
    let deep = format!("version = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    Initdata::read(deep.as_bytes(), Field::HostData).expect_err("too deep");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let why = with_policy(&"x".repeat(LONGEST)).write(Field::HostData);
    assert!(matches!(why, Err(Error::TooLong(_))), "{why:?}");
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(policy in "(?s).{0,200}", aa in "['\"\\\\\n\r\t\u{0}-z]{0,60}") {
        let mut initdata = with_policy(&policy);
        initdata.set_aa(&aa);
        for field in FIELDS {
            let document = initdata.write(field).expect("write");
            let bound = BoundDigest::of(document.as_bytes(), field).expect("digest");
            prop_assert_eq!(Initdata::open(document.as_bytes(), &bound).expect("open"), initdata.clone());
        }
    }

    #[test]
    fn any_other_byte_is_seen(at in 0usize..400, other in 1u8..) {
        let mut document = with_policy(&"allow ".repeat(60)).write(Field::HostData).expect("write").into_bytes();
        let bound = BoundDigest::of(&document, Field::HostData).expect("digest");
        document[at] ^= other;
        let is_unbound = matches!(Initdata::open(&document, &bound), Err(Error::NotBound { .. }));
        prop_assert!(is_unbound);
    }

    #[test]
    fn any_bytes_are_read_or_refused_in_a_sentence(document in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(why) = Initdata::read(&document, Field::HostData) {
            prop_assert!(why.to_string().len() <= 1024);
        }
    }
}
