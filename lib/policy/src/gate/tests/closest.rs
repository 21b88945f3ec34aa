//! Whoever is named by the author is not given to the host by a broader rule.

use serde_json::{Value, json};

use super::{configuration, creation, file, gate, policy};
use crate::{Check, Denial, Digest, File, Request};

/// What comes of these variables under these rules.
fn variables(rules: &Value, env: &[&str]) -> Result<(), Denial> {
    let mut policy = policy();
    policy["containers"][0]["process"]["env"] = rules.clone();
    let mut asked = configuration();
    asked["process"]["env"] = json!(env);
    gate(&policy).decide(creation(&asked)).map(drop)
}

#[test]
fn a_service_does_not_choose_what_the_author_has_set() {
    let rules = json!([
        {"name": {"exact": "LICENCE_SERVICE_HOST"}, "value": {"exact": "10.0.0.7"}},
        {"name": {"one_of": ["A_PORT", "B_PORT"]}, "value": {"exact": "80"}, "optional": true},
        {"name": {"exact": "A_PORT"}, "value": {"exact": "443"}, "optional": true},
        {"name": {"typed": "service_variable"}, "value": {"typed": "service_value"}, "optional": true},
    ]);
    let set = "LICENCE_SERVICE_HOST=10.0.0.7";
    variables(&rules, &[set, "X_PORT=81", "A_PORT=443", "B_PORT=80"])
        .expect("as the policy has them");
    for wrong in [
        &["LICENCE_SERVICE_HOST=10.6.6.6"] as &[&str],
        &[set, "A_PORT=80"],
        &[set, "A_PORT=81"],
        &[set, "B_PORT=81"],
    ] {
        let denial = variables(&rules, wrong).expect_err("another value");
        assert_eq!(denial.check, Check::EnvValue, "{wrong:?}: {denial}");
    }
}

#[test]
fn what_is_demanded_of_a_kind_is_not_there_by_what_is_named() {
    let rules = json!([
        {"name": {"exact": "A_PORT"}, "value": {"exact": "443"}},
        {"name": {"typed": "service_variable"}, "value": {"typed": "service_value"}},
    ]);
    let denial = variables(&rules, &["A_PORT=443"]).expect_err("no other one");
    assert_eq!(denial.check, Check::EnvMissing, "{denial}");
    variables(&rules, &["A_PORT=443", "B_PORT=1"]).expect("all there");
}

/// What comes of a file under these rules.
fn files(rules: &Value, path: &str, contents: &[u8], mode: u32) -> Result<(), Denial> {
    let mut policy = policy();
    policy["volumes"] = json!([{"name": "conf", "kind": {"files": {"files": rules}}}]);
    let file = File {
        mode,
        ..file(path, contents)
    };
    let asked = Request::PutFiles {
        volume: "conf".into(),
        files: vec![file],
    };
    gate(&policy).decide(asked).map(drop)
}

#[test]
fn a_file_that_is_bound_is_not_replaced_by_way_of_a_broader_rule() {
    let digest = |text: &str| json!({"digest": Digest::of(text.as_bytes()).to_string()});
    let any = json!({"at_most": 99});
    let listed = json!({"one_of": ["app.yaml", "b.yaml"]});
    let rule = |path: &Value, content: &Value, mode: u32| json!({"path": path, "content": content, "mode": mode, "optional": true});
    let rules = json!([
        rule(&json!({"typed": "text"}), &any, 0o777),
        rule(&listed, &digest("listed"), 0o644),
        rule(&json!({"exact": "app.yaml"}), &digest("mine"), 0o444),
        rule(&json!({"prefix": "app"}), &any, 0o644),
    ]);
    files(&rules, "app.yaml", b"mine", 0o444).expect("the author's");
    files(&rules, "b.yaml", b"listed", 0o644).expect("the author's");
    files(&rules, "app-2", b"any", 0o644).expect("the host's");
    files(&rules, "x", b"any", 0o755).expect("the host's");
    for (path, contents, mode, check) in [
        ("app.yaml", "theirs", 0o444, Check::FileContent),
        ("app.yaml", "listed", 0o444, Check::FileContent),
        ("app.yaml", "mine", 0o644, Check::FileMode),
        ("b.yaml", "theirs", 0o644, Check::FileContent),
        ("b.yaml", "listed", 0o755, Check::FileMode),
    ] {
        let denial = files(&rules, path, contents.as_bytes(), mode).expect_err(path);
        assert_eq!(denial.check, check, "{path} {contents} {mode:o}: {denial}");
    }
}

#[test]
fn a_file_belongs_to_whom_its_rule_says_and_not_the_host() {
    let mut policy = policy();
    let digest = Digest::of(b"bound").to_string();
    let rule = |content: &Value, user: u32| json!({"path": {"prefix": ""}, "content": content, "mode": 0o644, "optional": true, "owner": {"user": user, "group": 2000}});
    let rules = [
        rule(&json!({"at_most": 9}), 1),
        rule(&json!({"digest": digest}), 2),
    ];
    policy["volumes"] = json!([{"name": "conf", "kind": {"files": {"files": rules}}}]);
    let mut named = file("b", b"bound");
    named.owner.user = 4711;
    let asked = Request::PutFiles {
        volume: "conf".into(),
        files: vec![file("a", b"any"), named],
    };
    let approved = gate(&policy).decide(asked).expect("both");
    let Request::PutFiles { files, .. } = approved.request else {
        panic!("another request");
    };
    let owners = files.iter().map(|file| (file.owner.user, file.owner.group));
    assert_eq!(owners.collect::<Vec<_>>(), [(1, 2000), (2, 2000)]);
}

#[test]
fn a_file_that_is_demanded_of_a_kind_is_not_there_by_one_that_is_named() {
    let rules = json!([
        {"path": {"exact": "app.yaml"}, "content": {"at_most": 9}, "mode": 0o644},
        {"path": {"prefix": "app"}, "content": {"at_most": 9}, "mode": 0o644},
    ]);
    let denial = files(&rules, "app.yaml", b"", 0o644).expect_err("no other one");
    assert_eq!(denial.check, Check::FileMissing, "{denial}");
}
