//! The table against the specification's own example of everything, and against its document.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use trefoil_spec::ignored;

use super::*;

/// A configuration that sets every field for Linux.
fn everything() -> Value {
    let hook = json!([{"path": "/h", "args": ["h"], "env": ["A=b"], "timeout": 1}]);
    let mapping = json!([{"containerID": 1, "hostID": 2, "size": 3}]);
    let throttle = json!([{"major": 1, "minor": 2, "rate": 3}]);
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [{"destination": "/m", "source": "s", "type": "bind", "options": ["ro"],
            "uidMappings": mapping, "gidMappings": mapping}],
        "process": process(),
        "hostname": "h",
        "domainname": "d",
        "hooks": {"prestart": hook, "createRuntime": hook, "createContainer": hook,
            "startContainer": hook, "poststart": hook, "poststop": hook},
        "annotations": {"a.b": "c"},
        "linux": {
            "namespaces": [{"type": "time", "path": "/ns"}],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
            "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 384,
                "uid": 1, "gid": 2}],
            "netDevices": {"eth0": {"name": "eth1"}},
            "cgroupsPath": "/c",
            "resources": resources(&throttle),
            "intelRdt": {"closID": "c", "schemata": ["L3:0=f"], "l3CacheSchema": "L3:0=f",
                "memBwSchema": "MB:0=1", "enableMonitoring": true},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0",
                "flags": ["MPOL_F_STATIC_NODES"]},
            "sysctl": {"net.ipv4.ip_forward": "1"},
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
                "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "listenerPath": "/l", "listenerMetadata": "m",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
                    "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_EQ"}]}]},
            "rootfsPropagation": "rslave",
            "maskedPaths": ["/a"],
            "readonlyPaths": ["/b"],
            "mountLabel": "l",
            "personality": {"domain": "LINUX32", "flags": ["X"]},
        },
    })
}

fn process() -> Value {
    json!({
        "terminal": true,
        "consoleSize": {"height": 1, "width": 2},
        "cwd": "/",
        "env": ["A=b"],
        "args": ["a"],
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
        "apparmorProfile": "a",
        "capabilities": {"effective": ["CAP_KILL"], "bounding": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
        "noNewPrivileges": true,
        "oomScoreAdj": 1,
        "scheduler": {"policy": "SCHED_DEADLINE", "nice": 1, "priority": 2,
            "flags": ["SCHED_RESET_ON_FORK"], "runtime": 3, "deadline": 4, "period": 5},
        "selinuxLabel": "l",
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1},
        "execCPUAffinity": {"initial": "0", "final": "1"},
        "user": {"uid": 1, "gid": 2, "umask": 3, "additionalGids": [4]},
    })
}

fn resources(throttle: &Value) -> Value {
    json!({
        "devices": [{"allow": true, "type": "c", "major": 1, "minor": 2, "access": "r"}],
        "memory": {"limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5,
            "swappiness": 6, "disableOOMKiller": true, "useHierarchy": true,
            "checkBeforeUpdate": true},
        "cpu": {"shares": 1, "quota": 2, "burst": 3, "period": 4, "realtimeRuntime": 5,
            "realtimePeriod": 6, "cpus": "0", "mems": "0", "idle": 1},
        "blockIO": {"weight": 1, "leafWeight": 2,
            "weightDevice": [{"major": 1, "minor": 2, "weight": 3, "leafWeight": 4}],
            "throttleReadBpsDevice": throttle, "throttleWriteBpsDevice": throttle,
            "throttleReadIOPSDevice": throttle, "throttleWriteIOPSDevice": throttle},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 2}]},
        "pids": {"limit": 1},
        "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 2}},
        "unified": {"memory.high": "1"},
    })
}

/// Visits the fields below `value`; those for which `visit` says so are entered.
fn collect(value: &Value, at: &str, visit: &mut impl FnMut(&str, &Value) -> bool) {
    match value {
        Value::Object(fields) if MAPS.contains(&at) => {
            for value in fields.values() {
                collect(value, &format!("{at}{{}}"), visit);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                if visit(&path, value) {
                    collect(value, &path, visit);
                }
            }
        }
        Value::Array(all) => {
            for one in all {
                collect(one, &format!("{at}[]"), visit);
            }
        }
        _ => {}
    }
}

/// Objects whose keys are the user's.
const MAPS: [&str; 6] = [
    "annotations",
    "linux.sysctl",
    "linux.netDevices",
    "linux.timeOffsets",
    "linux.resources.rdma",
    "linux.resources.unified",
];

/// The paths of everything that has a value of its own.
fn leaves(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    collect(value, "", &mut |path, value| {
        match value {
            Value::Array(list) if list.iter().any(Value::is_object) => {}
            Value::Object(_) if !MAPS.contains(&path) => {}
            Value::Object(map) if map.values().any(Value::is_object) => {}
            Value::Object(_) => {
                all.insert(format!("{path}{{}}"));
            }
            _ => {
                all.insert(path.to_owned());
            }
        }
        true
    });
    all
}

#[test]
fn the_table_and_the_reader_have_every_field() {
    let everything = everything();
    let of_linux = table::FIELDS
        .iter()
        .filter(|(_, treatment, ..)| *treatment != Recorded)
        .map(|(path, ..)| (*path).to_owned())
        .collect();
    assert_eq!(leaves(&everything), of_linux);
    // A field that the library's type lacks would be gone without a word.
    let spec: Spec = serde_json::from_value(everything.clone()).unwrap();
    let again = leaves(&serde_json::to_value(&spec).unwrap());
    let lost: Vec<_> = leaves(&everything).difference(&again).cloned().collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(ignored(&everything, &spec), [""; 0]);
}

#[test]
fn other_systems_fields_are_recorded() {
    let mut configuration = everything();
    configuration["windows"] = json!({"layerFolders": ["c"]});
    configuration["vm"] = json!({"kernel": {"path": "/k"}});
    configuration["solaris"] = json!({"milestone": "m"});
    configuration["zos"] = json!({"namespaces": [{"type": "pid"}]});
    configuration["freebsd"] = json!({"jail": {"host": "new"}});
    configuration["process"]["commandLine"] = json!("x");
    configuration["process"]["user"]["username"] = json!("me");
    let spec = serde_json::from_value(configuration.clone()).unwrap();
    let recorded = table::FIELDS
        .iter()
        .filter(|(_, treatment, ..)| *treatment == Recorded)
        .map(|(path, ..)| path.trim_end_matches(".*").to_owned());
    assert_eq!(
        ignored(&configuration, &spec)
            .into_iter()
            .collect::<BTreeSet<_>>(),
        recorded.collect()
    );
}

fn document() -> String {
    let mut text = String::from(
        "# The runtime specification, field by field\n\n\
         What becomes of each field of the [runtime specification] 1.3 that concerns Linux. \
         *Applied*: the container has it, or does not start. *Refused*: no container starts with \
         it. *Recorded*: it is logged by name and has no effect, as with properties that the \
         specification does not know. Where stock runtimes ignore a field, the remark says so.\n\n\
         This file is made from `runtimes/runc/src/fields/table.rs`: \
         `UPDATE=1 cargo test -p trefoil-runc --lib fields::`.\n\n\
         [runtime specification]: https://github.com/opencontainers/runtime-spec/blob/v1.3.0/spec.md\n\n\
         | Field | | Remark | Test |\n|---|---|---|---|\n",
    );
    for (path, treatment, remark, test) in table::FIELDS {
        let treatment = format!("{treatment:?}").to_lowercase();
        writeln!(text, "| `{path}` | {treatment} | {remark} | `{test}` |").unwrap();
    }
    text
}

#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runtime-spec.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == document(),
        "docs/runtime-spec.md differs from the table: run this test with UPDATE=1"
    );
}

/// A table that names tests which nobody wrote would be a promise.
#[test]
fn every_test_is_there() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    modules(&package.join("src"), "", &mut files);
    modules(&package.join("../../lib/spec/src"), "spec", &mut files);
    modules(&package.join("tests/fields"), "fields", &mut files);
    for (path, _, _, test) in table::FIELDS {
        let (module, name) = test.rsplit_once("::").unwrap();
        let function = format!("fn {name}(");
        let found = files.iter().any(|(of_file, text)| {
            let inner = module
                .strip_prefix(of_file.as_str())
                .map(|rest| rest.trim_start_matches("::"));
            let has_module = inner.is_some_and(|inner| {
                inner.is_empty() || text.contains(&format!("\nmod {inner} {{"))
            });
            has_module && text.contains(&function)
        });
        assert!(found, "{path}: there is no test {test}");
    }
}

/// The modules below a directory, each with its text.
fn modules(directory: &Path, parent: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let module = match (parent, name) {
            (_, "mod" | "main" | "lib") => parent.to_owned(),
            ("", name) => name.to_owned(),
            (parent, name) => format!("{parent}::{name}"),
        };
        match path.is_dir() {
            true => modules(&path, &module, found),
            false => found.push((module, std::fs::read_to_string(&path).unwrap())),
        }
    }
}
