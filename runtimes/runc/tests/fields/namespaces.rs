//! `linux.namespaces` and the mappings of a user namespace.

use std::fs;

use serde_json::{Value, json};

use crate::bench::Bench;

tests![new_namespaces, joined_namespaces, user_mappings];

/// The kinds, as the configuration and as `/proc` names them.
const KINDS: [(&str, &str); 7] = [
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
];

fn namespace(process: &str, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
    link.display().to_string()
}

fn map_users(spec: &mut Value) {
    spec["linux"]["uidMappings"] = json!([
        {"containerID": 0, "hostID": 100_000, "size": 1000},
        {"containerID": 5000, "hostID": 300_000, "size": 7}]);
    spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 3000}]);
}

/// Has a namespace, new or that of a path, in place of the one that the configuration has.
pub fn set(spec: &mut Value, kind: &str, path: Option<&str>) {
    let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != kind);
    all.push(match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    });
    if kind == "user" {
        map_users(spec);
    }
}

/// Is seen from the host, so that one that has no `/proc` of its own is, too.
fn of_container(bench: &Bench, spec: &Value, name: &str) -> String {
    let look = |waiting: &crate::bench::Waiting<'_>| namespace(&waiting.pid.to_string(), name);
    bench.run(spec, look).unwrap().0
}

fn new_namespaces(bench: &Bench) {
    for (kind, name) in KINDS {
        let own = namespace("self", name);
        let mut spec = bench.spec("true");
        set(&mut spec, kind, None);
        assert_ne!(of_container(bench, &spec, name), own, "{kind}");
        let mut spec = bench.spec("true");
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|one| one["type"] != kind);
        assert_eq!(of_container(bench, &spec, name), own, "{kind}");
    }
}

fn joined_namespaces(bench: &Bench) {
    for (kind, name) in KINDS {
        let mut other = bench.spec("true");
        set(&mut other, kind, None);
        let outcome = bench.run(&other, |other| {
            let path = format!("/proc/{}/ns/{name}", other.pid);
            let mut spec = bench.spec("true");
            set(&mut spec, kind, Some(&path));
            let that = namespace(&other.pid.to_string(), name);
            (of_container(bench, &spec, name), that)
        });
        let (own, that) = outcome.unwrap().0;
        assert_eq!(own, that, "{kind}");
    }
    let mut spec = bench.spec("true");
    set(&mut spec, "network", Some("/no/such/namespace"));
    let why = bench.refusal(&spec);
    assert!(why.contains("net namespace /no/such/namespace"), "{why}");
}

fn user_mappings(bench: &Bench) {
    let mut spec = bench.spec("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '");
    set(&mut spec, "user", None);
    let expected = [" 0 100000 1000", " 5000 300000 7", " 0 200000 3000"];
    assert_eq!(bench.lines(&spec), expected);
}
