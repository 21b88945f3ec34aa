use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A policy with something of everything.
pub(crate) fn sound() -> Value {
    let layer = json!({"root_hash": "ab".repeat(32), "blocks": 10});
    let container = |name: &str, kind: &str| {
        json!({
            "name": name, "kind": kind, "image": "cd".repeat(32), "layers": [layer],
            "restart": "always",
            "process": {
                "command": ["/bin/x"],
                "env": [{"name": {"exact": "KEY"}, "value": {"exact": "canary"}, "secret": true},
                    {"name": {"typed": "service_variable"}, "value": {"typed": "service_value"}, "optional": true}],
                "user": {"uid": 1, "gid": 2}, "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]},
            },
            "mounts": [{"destination": "/proc", "kind": "proc", "options": ["nosuid"]},
                {"destination": "/etc/x", "kind": {"volume": {"name": "x", "sub_path": "a/b"}}, "options": ["ro"]}],
            "namespaces": ["mount"], "seccomp": "unconfined",
            "oom_score": {"least": 0, "most": 1000}, "signals": [15],
            "exec": [{"command": {"arguments": [{"exact": "/probe"}]}}],
        })
    };
    let mut app = container("app", "app");
    app["after"] = json!(["init"]);
    app["required"] = true.into();
    json!({
        "version": 1,
        "sandbox": {"hostname": {"prefix": "x-"}, "sysctls": [{"name": "net.a", "value": "1"}],
            "start_within": 60},
        "volumes": [{"name": "x", "kind": {"files": {"files": [
            {"path": {"exact": "a/b"}, "content": {"at_most": 7}, "mode": 420}]}}}],
        "containers": [container("init", "init"), app],
    })
}

fn read(value: &Value) -> Result<Policy, PolicyError> {
    Policy::from_json(value.to_string().as_bytes())
}

#[test]
fn the_same_policy_has_the_same_bytes() {
    let policy = read(&sound()).expect("sound");
    let bytes = policy.to_json().expect("sound");
    let again = Policy::from_json(&bytes).expect("its own");
    assert_eq!(again, policy);
    assert_eq!(again.to_json().expect("sound"), bytes);
    // However it is written.
    let mut other = sound();
    other["containers"][0]["signals"] = json!([15, 15]);
    let spaced = serde_json::to_vec_pretty(&other).expect("JSON");
    let same = Policy::from_json(&spaced).expect("sound");
    assert_eq!(same.to_json().expect("sound"), bytes);
}

#[test]
fn what_is_wrong_with_a_policy_is_named() {
    let cases: [(&str, Value, &str); 26] = [
        (
            "/version",
            json!(2),
            "policy's version: it is 2, and 1 is known",
        ),
        ("/alien", json!(1), "unknown field `alien`"),
        ("/sandbox/alien", json!(1), "unknown field `alien`"),
        ("/containers/0/alien", json!(1), "unknown field `alien`"),
        (
            "/containers/0/process/alien",
            json!(1),
            "unknown field `alien`",
        ),
        (
            "/containers/0/layers/0/salt",
            json!(1),
            "unknown field `salt`",
        ),
        (
            "/containers/0/layers",
            json!([]),
            "containers[0].layers: there are 0",
        ),
        (
            "/containers/0/layers/0/blocks",
            json!(0),
            "containers[0].layers: one has no blocks",
        ),
        (
            "/containers/0/layers/0/root_hash",
            json!("AB".repeat(32)),
            "it is no digest",
        ),
        (
            "/containers/1/name",
            json!("init"),
            "containers[1].name: it is there twice",
        ),
        (
            "/containers/1/name",
            json!("a/b"),
            "containers[1].name: a name has",
        ),
        (
            "/containers/1/after",
            json!(["b"]),
            "containers[1].after: there is no container \"b\"",
        ),
        (
            "/containers/1/after",
            json!(["app"]),
            "containers: \"app\" waits for itself",
        ),
        (
            "/containers/0/after",
            json!(["app"]),
            "containers[0].after: \"app\" starts after",
        ),
        (
            "/containers/0/process/command",
            json!([]),
            "containers[0].process.command: it names no program",
        ),
        (
            "/containers/0/process/cwd",
            json!("/a/../b"),
            "containers[0].process.cwd: it has to be an absolute path",
        ),
        (
            "/containers/0/namespaces",
            json!([]),
            "containers[0].namespaces: every container",
        ),
        (
            "/containers/0/mounts/0/destination",
            json!("/"),
            "containers[0].mounts[0].destination",
        ),
        (
            "/containers/0/mounts/1/destination",
            json!("/proc"),
            "mounts[1].destination: it is there twice",
        ),
        (
            "/containers/0/mounts/1/kind/volume/name",
            json!("y"),
            "there is no volume \"y\"",
        ),
        (
            "/containers/0/mounts/1/kind/volume/sub_path",
            json!("../a"),
            "sub_path: it leaves the volume",
        ),
        (
            "/containers/0/mounts/1/options",
            json!([]),
            "containers[0].mounts[1].options: volume \"x\" has files that the host brings: it needs ro",
        ),
        (
            "/containers/0/mounts/0/options",
            json!(["bind"]),
            "it is no option of a mount",
        ),
        (
            "/containers/0/signals",
            json!([65]),
            "containers[0].signals",
        ),
        (
            "/volumes/0/kind/files/files/0/content",
            json!({"sealed": "hunter2"}),
            "does not begin with \"sealed.\"",
        ),
        (
            "/volumes/0/kind/files/files/0/path",
            json!({"exact": "/etc/x"}),
            "a path leaves the volume",
        ),
    ];
    for (pointer, value, words) in cases {
        let mut changed = sound();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = changed.pointer_mut(parent).expect("its parent");
        match key.parse::<usize>() {
            Ok(at) => parent[at] = value,
            Err(_) => parent[key] = value,
        }
        let why = read(&changed).expect_err(pointer).to_string();
        assert!(why.contains(words), "{pointer}: {why}");
        assert!(why.len() < 512, "{why}");
    }
}

#[test]
fn a_field_that_is_there_twice_is_no_policy() {
    let text = sound().to_string();
    for (once, twice) in [
        (r#""version":1"#, r#""version":1,"version":1"#),
        (r#""cwd":"/""#, r#""cwd":"/","cwd":"/""#),
        (
            r#"{"exact":"/probe"}"#,
            r#"{"exact":"/probe","exact":"/x"}"#,
        ),
    ] {
        assert!(text.contains(once), "{once}");
        let why = Policy::from_json(text.replacen(once, twice, 1).as_bytes());
        why.expect_err(once);
    }
}

#[test]
fn none_is_too_large() {
    let why = Policy::from_json(&vec![b' '; LARGEST_POLICY + 1]).expect_err("too large");
    assert_eq!(why, PolicyError::TooLarge(LARGEST_POLICY + 1));
}

#[test]
fn patterns_match_what_they_say() {
    let prefix = Pattern::Prefix("web-".into());
    let sound = ["web-", "web-7d9f-x.y_z"];
    assert!(sound.into_iter().all(|value| prefix.matches(value)));
    let wrong = ["web", "xweb-", "web-a b", "web-a/b", "web-\n"];
    assert!(!wrong.into_iter().any(|value| prefix.matches(value)));
    assert!(!prefix.matches(&format!("web-{}", "x".repeat(257))));
    let typed: [(Typed, &[&str], &[&str]); 9] = [
        (
            Typed::Ipv4,
            &["10.0.0.1"],
            &["10.0.0", "10.0.0.256", " 10.0.0.1", "::1", ""],
        ),
        (
            Typed::Ipv6,
            &["::1", "fd00::1"],
            &["10.0.0.1", "[::1]", "::1%eth0"],
        ),
        (
            Typed::DnsName,
            &["a.b-c.d", "A1"],
            &["", "a..b", "-a", "a-", "a_b", "a b"],
        ),
        (
            Typed::Number,
            &["0", "007"],
            &["", "-1", "+1", "1.0", "123456789012345678901"],
        ),
        (Typed::Port, &["1", "65535"], &["0", "65536", "+1"]),
        (
            Typed::ServiceEndpoint,
            &["tcp://10.0.0.1:80", "udp://[::1]:53"],
            &[
                "tcp://a:80",
                "tcp://10.0.0.1",
                "http://10.0.0.1:80",
                "tcp://::1:80",
            ],
        ),
        (
            Typed::ServiceVariable,
            &[
                "A_SERVICE_HOST",
                "A_B_PORT_80_TCP",
                "A_PORT_80_TCP_ADDR",
                "A_SERVICE_PORT_HTTP",
                "A_PORT",
            ],
            &[
                "LD_PRELOAD",
                "PATH",
                "_SERVICE_HOST",
                "A_PORT_80_ICMP",
                "a_PORT",
                "A_SERVICE_PORT_",
                "A_PORT_80_TCP_ADDR_X",
            ],
        ),
        (
            Typed::ServiceValue,
            &["10.0.0.1", "80", "tcp", "tcp://10.0.0.1:80"],
            &["x", "", "/bin/sh"],
        ),
        (
            Typed::Uuid,
            &["01234567-89ab-cdef-0123-456789abcdef"],
            &["", "01234567", "01234567-89ab-cdef-0123-456789abcdeg"],
        ),
    ];
    for (kind, sound, wrong) in typed {
        for value in sound {
            assert!(kind.matches(value), "{kind:?} {value}");
        }
        for value in wrong {
            assert!(!kind.matches(value), "{kind:?} {value}");
        }
    }
}

#[test]
fn options_are_read_as_mount_has_them() {
    for (text, written) in [
        ("ro", "ro"),
        ("size=64k", "size=65536"),
        ("size=1G", "size=1073741824"),
        ("mode=0755", "mode=755"),
        ("gid=5", "gid=5"),
        ("ptmxmode=0666", "ptmxmode=666"),
    ] {
        let option: MountOption = text.parse().expect(text);
        assert_eq!(option.to_string(), written);
        assert_eq!(written.parse(), Ok(option));
    }
    for wrong in [
        "",
        "rw",
        "bind",
        "size=",
        "size=k",
        "size=-1",
        "mode=8",
        "mode=77777",
        "gid=+5",
        "lowerdir=/",
        "size=99999999999999999999g",
    ] {
        wrong.parse::<MountOption>().expect_err(wrong);
    }
}

#[test]
fn a_rule_covers_no_more_than_its_own_device() {
    let rule = |minor, access: &[Access]| DeviceRule {
        kind: DeviceKind::Character,
        major: 10,
        minor,
        access: access.iter().copied().collect(),
    };
    let all = [Access::Read, Access::Write, Access::MakeNode];
    assert!(rule(None, &all).covers(&rule(Some(3), &[Access::Read])));
    assert!(!rule(Some(3), &all).covers(&rule(None, &[Access::Read])));
    assert!(!rule(Some(3), &[Access::Read]).covers(&rule(Some(3), &all)));
    assert!(!rule(Some(3), &all).covers(&rule(Some(4), &all)));
}

/// The variables by which the kubelet tells of a service, with their values.
fn of_service(name: &str, port: u16, port_name: &str, protocol: &str) -> Vec<(String, String)> {
    let spelt = |name: &str| name.to_ascii_uppercase().replace('-', "_");
    let (service, number) = (spelt(name), port.to_string());
    let of_port = format!("{service}_PORT_{port}_{}", spelt(protocol));
    let endpoint = format!("{protocol}://10.0.0.1:{port}");
    let all = [
        (format!("{service}_SERVICE_HOST"), "10.0.0.1"),
        (format!("{service}_SERVICE_PORT"), &number),
        (
            format!("{service}_SERVICE_PORT_{}", spelt(port_name)),
            &number,
        ),
        (format!("{service}_PORT"), &endpoint),
        (of_port.clone(), &endpoint),
        (format!("{of_port}_PROTO"), protocol),
        (format!("{of_port}_PORT"), &number),
        (format!("{of_port}_ADDR"), "10.0.0.1"),
    ];
    all.map(|(name, value)| (name, value.to_owned())).into()
}

proptest! {
    /// Whatever parts a service's name has, those of the variables' own names among them.
    #[test]
    fn variables_of_any_service_are_known(
        parts in prop::collection::vec("port|service|host|tcp|addr|proto|[a-z][a-z0-9]{0,8}|[0-9]{1,5}", 0..6),
        first in "[a-z]",
        port in 1_u16..,
        port_name in "[a-z][a-z0-9-]{0,12}[a-z0-9]",
        protocol in "tcp|udp|sctp",
    ) {
        let name = [vec![first], parts].concat().join("-");
        for (variable, value) in of_service(&name, port, &port_name, &protocol) {
            prop_assert!(Typed::ServiceVariable.matches(&variable), "{}", variable);
            prop_assert!(Typed::ServiceValue.matches(&value), "{}", value);
        }
    }

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        drop(Policy::from_json(&bytes));
    }

    #[test]
    fn a_digest_is_read_as_it_is_written(bytes in any::<[u8; 32]>()) {
        prop_assert_eq!(Digest(bytes).to_string().parse(), Ok(Digest(bytes)));
    }

    #[test]
    fn what_is_below_stays_below(path in "[./a]{0,12}") {
        let sound = is_below(&path);
        let plain = std::path::Path::new(&path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        prop_assert!(!sound || (plain && !path.is_empty()));
    }

    #[test]
    fn what_is_written_of_an_option_is_read_again(text in "(size|mode|uid|gid)=[0-9]{1,8}[kmg]?") {
        if let Ok(option) = text.parse::<MountOption>() {
            prop_assert_eq!(option.to_string().parse(), Ok(option));
        }
    }
}
