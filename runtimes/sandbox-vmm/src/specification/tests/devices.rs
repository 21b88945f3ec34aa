//! Which devices a container has.

use serde_json::{Value, json};

use super::{POD, of_a_container, translated, with};

fn fuse() -> Value {
    json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666})
}

/// The paths of a container's devices, and how many rules of devices it has.
fn devices_of(configuration: &Value) -> (Vec<String>, usize) {
    let (spec, _) = translated(configuration, POD).unwrap();
    let linux = spec.linux().clone().unwrap();
    let nodes = linux.devices().clone().unwrap_or_default();
    let nodes = nodes.iter().map(|node| node.path().display().to_string());
    let rules = linux.resources().clone().unwrap().devices().clone();
    (nodes.collect(), rules.unwrap_or_default().len())
}

/// As CRI makes a privileged container where the handler allows no devices.
fn privileged() -> Value {
    let mut all = of_a_container();
    let linux = all["linux"].as_object_mut().unwrap();
    for field in ["maskedPaths", "readonlyPaths", "seccomp"] {
        linux.remove(field);
    }
    all["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_CHOWN"]);
    let sysfs =
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["rw"]});
    all["mounts"].as_array_mut().unwrap().push(sysfs);
    all
}

#[test]
fn a_device_that_guests_have_themselves_is_theirs() {
    let (nodes, rules) = devices_of(&with("/linux/devices", json!([fuse()])));
    assert_eq!((nodes, rules), (vec!["/dev/fuse".to_owned()], 1));
    let kinds = [
        ("type", json!("b")),
        ("minor", json!(228)),
        ("path", json!("/dev/kmsg")),
    ];
    for (field, value) in kinds {
        let mut other = fuse();
        other[field] = value;
        let why = translated(&with("/linux/devices", json!([other])), POD).unwrap_err();
        assert!(why.to_string().contains("a device of the host's"), "{why}");
    }
}

#[test]
fn a_privileged_container_has_what_the_guest_has() {
    let all = json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]);
    let allowed = with("/linux/resources/devices", all);
    for (configuration, least) in [(privileged(), 7), (allowed, 2)] {
        let (nodes, rules) = devices_of(&configuration);
        for path in [
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/kmsg",
            "/dev/loop-control",
            "/dev/loop0",
            "/dev/loop7",
        ] {
            assert!(nodes.iter().any(|node| node == path), "{path} in {nodes:?}");
        }
        assert!(rules >= least, "{rules}");
    }
    // One that it has asked for is as it asked for it.
    let mut twice = privileged();
    twice["linux"]["devices"] = json!([fuse()]);
    let (nodes, _) = devices_of(&twice);
    let fuses = nodes.iter().filter(|node| *node == "/dev/fuse").count();
    assert_eq!(fuses, 1);
}

#[test]
fn what_is_kept_from_anything_is_not_privileged() {
    let mut kept = vec![of_a_container()];
    for (field, value) in [
        ("maskedPaths", json!(["/proc/kcore"])),
        ("readonlyPaths", json!(["/proc/sys"])),
        ("seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"})),
    ] {
        let mut one = privileged();
        one["linux"][field] = value;
        kept.push(one);
    }
    let mut capable = privileged();
    capable["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    kept.push(capable);
    let mut sees_sysfs = privileged();
    let last = sees_sysfs["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    last["options"] = json!(["ro"]);
    kept.push(sees_sysfs);
    for some in [
        json!([{"allow": true, "access": "rw"}]),
        json!([{"allow": true, "type": "c", "access": "rwm"}]),
        json!([{"allow": true, "major": 1, "access": "rwm"}]),
        json!([{"allow": false, "access": "rwm"}]),
    ] {
        kept.push(with("/linux/resources/devices", some));
    }
    for one in kept {
        assert_eq!(devices_of(&one).0, Vec::<String>::new(), "{one}");
    }
}
