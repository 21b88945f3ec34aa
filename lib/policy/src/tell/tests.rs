use serde_json::json;

use super::diff;
use crate::Policy;
use crate::model::tests::sound;

fn policy(change: impl FnOnce(&mut serde_json::Value)) -> Policy {
    let mut value = sound();
    change(&mut value);
    Policy::from_json(value.to_string().as_bytes()).expect("a policy")
}

#[test]
fn a_policy_is_told_in_sentences() {
    let lines = policy(|_| {}).explain();
    for line in &lines {
        assert!(line.ends_with('.') && !line.contains('\n'), "{line}");
        assert!(!line.contains("canary"), "{line}");
    }
    for wanted in [
        "The pod's hostname is a name that begins with \"x-\".",
        "The guest ends unless app has started within 60 seconds.",
        "Container app is one of the pod's containers; it is restarted when it ended, and starts after init.",
        "Container app runs [\"/bin/x\"] in / as user 1 and group 2.",
        "Container app has the variable KEY, whose value is secret.",
        "Container app has a/b of volume x at /etc/x.",
        "The host may run \"/probe\" in container app, and gets nothing of it but how it ended.",
        "The host may not read what containers write to their output (logs).",
    ] {
        assert!(
            lines.iter().any(|line| line == wanted),
            "{wanted}: {lines:#?}"
        );
    }
    let lines = policy(|all| all["permissive"] = true.into()).explain();
    assert!(lines[0].contains("allows everything"), "{lines:?}");
}

#[test]
fn what_changed_is_named_and_nothing_else() {
    let old = policy(|_| {});
    assert_eq!(diff(&old, &old), [""; 0]);
    let new = policy(|all| {
        all["containers"][1]["process"]["user"]["uid"] = 0.into();
        all["containers"][0]["process"]["env"][0]["value"] = json!({"exact": "other"});
        all["knobs"] = json!({"logs": true});
    });
    let lines = diff(&old, &new);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let has = |wanted: &str| lines.iter().any(|line| line.starts_with(wanted));
    assert!(
        has("containers[app].process.user.uid changes from 1 to 0"),
        "{lines:#?}"
    );
    assert!(has("knobs is new: {\"logs\":true}"), "{lines:#?}");
    assert!(
        lines
            .iter()
            .all(|line| !line.contains("canary") && !line.contains("other"))
    );
}

#[test]
fn another_order_is_told_whatever_else_changes() {
    let old = policy(|all| {
        all["containers"][0]["layers"] = json!([{"root_hash": "11".repeat(32), "blocks": 1}, {"root_hash": "22".repeat(32), "blocks": 2}]);
        all["containers"][0]["process"]["command"] = json!(["/bin/x", "--one", "x".repeat(300)]);
    });
    let new = policy(|all| {
        all["containers"][0]["layers"] = json!([{"root_hash": "22".repeat(32), "blocks": 2}, {"root_hash": "11".repeat(32), "blocks": 1}]);
        all["containers"][0]["process"]["command"] =
            json!(["/bin/x", format!("{}y", "x".repeat(300)), "--one"]);
        all["containers"][0]["mounts"]
            .as_array_mut()
            .expect("mounts")
            .swap(0, 1);
        all["containers"].as_array_mut().expect("a list").swap(0, 1);
        all["knobs"] = json!({"logs": true});
    });
    let lines = diff(&old, &new);
    let of = format!("containers[{}]", old.containers[0].name);
    for wanted in [
        "containers are in another order: ".to_owned(),
        "knobs is new".to_owned(),
        format!("{of}.mounts are in another order: /etc/x, /proc, and were /proc, /etc/x"),
        format!("{of}.layers[0].root_hash changes from 1111"),
        format!("{of}.layers[1].root_hash changes from 2222"),
        format!("{of}.process.command[1] changes from --one to xxx"),
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(&wanted)),
            "{wanted}: {lines:#?}"
        );
    }
}

#[test]
fn long_values_are_shown_from_where_they_differ() {
    let with_end = |end: &str| {
        let long = format!("{}{end}", "é".repeat(100));
        policy(|all| all["containers"][0]["process"]["command"] = json!(["/bin/x", long]))
    };
    let lines = diff(&with_end("è-old"), &with_end("ë-new"));
    let [line] = &lines[..] else {
        panic!("{lines:#?}");
    };
    assert!(line.ends_with("changes from …è-old to …ë-new"), "{line}");
}

/// Whoever reads it can't try out which value has the digest.
#[test]
fn nothing_is_shown_by_which_a_secret_could_be_guessed() {
    let with = |value: &str, content: &str, more: bool| {
        policy(|all| {
            let env = &mut all["containers"][0]["process"]["env"];
            env[0]["value"] = json!({"exact": value});
            if more {
                env.as_array_mut().expect("variables").push(json!({
                    "name": {"exact": "PIN"}, "value": {"exact": value}, "secret": true
                }));
            }
            all["volumes"].as_array_mut().expect("volumes").push(json!({"name": "pin", "kind": {"files": {
                "files": [{"path": {"exact": "pin"}, "content": {"digest": content}, "mode": 420}]}}}));
        })
    };
    let of = |pin: &str| crate::Digest::of(pin.as_bytes()).to_string();
    let value =
        |pin: &str| crate::Digest::of(json!({"exact": pin}).to_string().as_bytes()).to_string();
    let old = with("1234", &of("1234"), false);
    let mut lines = diff(&old, &with("5678", &of("5678"), true));
    lines.extend(diff(&with("5678", &of("5678"), true), &old));
    for hidden in ["1234", "5678"]
        .iter()
        .flat_map(|pin| [(*pin).to_owned(), of(pin), value(pin)])
    {
        assert!(
            lines.iter().all(|line| !line.contains(&hidden)),
            "{hidden}: {lines:#?}"
        );
    }
    for wanted in [
        ".value, a secret, changes",
        ".content changes to other bytes",
    ] {
        assert!(
            lines.iter().any(|line| line.ends_with(wanted)),
            "{wanted}: {lines:#?}"
        );
    }
}

#[test]
fn no_value_makes_lines_of_its_own() {
    let with = |value: &str| {
        policy(|all| {
            let env = &mut all["containers"][0]["process"]["env"];
            env.as_array_mut().expect("variables").push(json!({
                "name": {"exact": "A"}, "value": {"exact": value}
            }));
        })
    };
    let lines = diff(&with("a"), &with("b\nknobs.logs is gone\u{1b}[2K\u{202e}"));
    assert_eq!(
        lines,
        [
            "containers[init].process.env[A].value.exact changes from a to b\\nknobs.logs is gone\\u{1b}[2K\\u{202e}"
        ]
    );
}
