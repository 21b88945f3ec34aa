//! What the policy binds to one value is told from what the host has chosen.

use serde_json::json;

use super::{configuration, creation, file, gate, policy};
use crate::{Digest, Request};

const SEALED: &str = "sealed.a.b.c";

#[test]
fn a_variable_is_bound_by_its_exact_value_alone() {
    let mut policy = policy();
    policy["containers"][0]["process"]["env"] = json!([
        {"name": {"exact": "PASSWORD"}, "value": {"exact": SEALED}},
        {"name": {"exact": "GREETING"}, "value": {"typed": "text"}},
        {"name": {"exact": "COLOUR"}, "value": {"one_of": [SEALED, "blue"]}},
        {"name": {"exact": "EITHER"}, "value": {"typed": "text"}},
        {"name": {"exact": "EITHER"}, "value": {"exact": SEALED}},
    ]);
    let asked = |either: &str| {
        let mut asked = configuration();
        asked["process"]["env"] = json!([
            format!("GREETING={SEALED}"),
            format!("PASSWORD={SEALED}"),
            format!("COLOUR={SEALED}"),
            format!("EITHER={either}"),
        ]);
        creation(&asked)
    };
    let bound = |either| {
        let approved = gate(&policy).decide(asked(either)).expect("it passes");
        let Request::CreateContainer(made) = approved.request else {
            panic!("another request");
        };
        let bound = approved.bound.iter();
        let name = |at: &usize| made.configuration.process.env[*at].clone();
        bound.map(name).collect::<Vec<_>>()
    };
    let password = format!("PASSWORD={SEALED}");
    assert_eq!(bound("x"), [password.as_str()]);
    assert_eq!(bound(SEALED), [password, format!("EITHER={SEALED}")]);
}

#[test]
fn a_file_is_bound_if_it_is_a_sealed_secret() {
    let digest = Digest::of(SEALED.as_bytes()).to_string();
    let mut policy = policy();
    policy["volumes"] = json!([{"name": "conf", "kind": {"files": {"files": [
        {"path": {"exact": "motd"}, "content": {"at_most": 99}, "mode": 0o644},
        {"path": {"exact": "published"}, "content": {"digest": digest}, "mode": 0o644},
        {"path": {"exact": "password"}, "content": {"sealed": SEALED}, "mode": 0o644},
    ]}}}]);
    let asked = |password: &str| Request::PutFiles {
        volume: "conf".into(),
        files: vec![
            file("motd", SEALED.as_bytes()),
            file("published", SEALED.as_bytes()),
            file("password", password.as_bytes()),
        ],
    };
    let approved = gate(&policy).decide(asked(SEALED)).expect("it passes");
    assert_eq!(approved.bound, [2]);
    for other in ["", "sealed.a.b.", "sealed.a.b.c\n", "sealed.a.b.d"] {
        let denial = gate(&policy).decide(asked(other)).expect_err(other);
        let denial = denial.to_string();
        assert!(
            denial.contains("the sealed secret that the policy has"),
            "{denial}"
        );
    }
}
