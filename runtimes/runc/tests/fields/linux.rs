//! What of `linux` is neither namespaces nor devices nor resources.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::bench::{Bench, is_v2};

tests![
    the_cgroups_path,
    propagation_of_the_root,
    masked_paths,
    read_only_paths,
    a_mount_label,
    personality_and_scheduling,
    system_controls,
];

fn the_cgroups_path(bench: &Bench) {
    let spec = bench.spec("true");
    let path = spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
    let look = |waiting: &crate::bench::Waiting<'_>| {
        fs::read_to_string(format!("/proc/{}/cgroup", waiting.pid)).unwrap()
    };
    let places = bench.run(&spec, look).unwrap().0;
    let line = places
        .lines()
        .find(|line| match is_v2() {
            true => line.starts_with("0::"),
            false => line.contains(":memory:"),
        })
        .unwrap();
    assert!(line.ends_with(&format!(":{path}")), "{places}");
}

fn propagation_of_the_root(bench: &Bench) {
    let set = |flags| {
        mount(
            None::<&str>,
            bench.work(),
            None::<&str>,
            flags,
            None::<&str>,
        )
        .unwrap()
    };
    // So that there is something to be a slave of.
    set(MsFlags::MS_SHARED);
    for (asked, expected) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("slave", "master:"),
        ("private", ""),
        ("unbindable", "unbindable"),
    ] {
        let script = "sed -n 's, - .*,,; s,^[0-9]* [0-9]* [0-9:]* [^ ]* / [^ ]* ,,p' \
                      /proc/self/mountinfo";
        let mut spec = bench.spec(script);
        spec["linux"]["rootfsPropagation"] = json!(asked);
        let line = bench.lines(&spec).concat();
        let words: String = line.chars().filter(|one| !one.is_ascii_digit()).collect();
        assert_eq!(words.trim(), expected, "{asked}: {line}");
    }
    set(MsFlags::MS_PRIVATE);
    let mut spec = bench.spec("true");
    spec["linux"]["rootfsPropagation"] = json!("sideways");
    let why = bench.refusal(&spec);
    assert!(why.contains("rootfsPropagation=sideways"), "{why}");
}

fn masked_paths(bench: &Bench) {
    let mut spec = bench.spec("wc -c </etc/secret; ls -A /etc/rooms; wc -c </etc/open");
    let etc = bench.bundle().join("rootfs/etc");
    fs::create_dir(etc.join("rooms")).unwrap();
    for name in ["secret", "open", "rooms/key"] {
        fs::write(etc.join(name), "key").unwrap();
    }
    spec["linux"]["maskedPaths"] = json!(["/etc/secret", "/etc/rooms", "/etc/nothing"]);
    assert_eq!(bench.lines(&spec), ["0", "3"]);
}

fn read_only_paths(bench: &Bench) {
    let script = "for path in frozen/new file tmp/new; do \
                  (echo >/etc/$path) 2>/dev/null && echo $path; done; true";
    let mut spec = bench.spec(script);
    let etc = bench.bundle().join("rootfs/etc");
    for name in ["frozen", "tmp"] {
        fs::create_dir(etc.join(name)).unwrap();
    }
    fs::write(etc.join("file"), "").unwrap();
    spec["linux"]["readonlyPaths"] = json!(["/etc/frozen", "/etc/file", "/etc/nothing"]);
    assert_eq!(bench.lines(&spec), ["tmp/new"]);
}

fn a_mount_label(bench: &Bench) {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        println!(
            "a_mount_label: skipped, as this machine has SELinux, and which labels is its own"
        );
        return;
    }
    let mut spec = bench.spec("true");
    spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    let why = bench.refusal(&spec);
    assert!(
        why.contains("container_file_t") && why.contains("selinux"),
        "{why}"
    );
}

fn personality_and_scheduling(bench: &Bench) {
    let mut spec =
        bench.spec("cat /proc/self/personality; cut -d ' ' -f 19 /proc/self/stat; ionice");
    spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
    assert_eq!(bench.lines(&spec), ["00000008", "7", "best-effort: prio 3"]);
}

fn system_controls(bench: &Bench) {
    let mut spec =
        bench.spec("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; hostname");
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"});
    spec["hostname"] = json!("of-its-own");
    assert_eq!(bench.lines(&spec), ["1", "4321", "of-its-own"]);
    let mut spec = bench.spec("true");
    spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    let why = bench.refusal(&spec);
    assert!(why.contains("kernel.panic"), "{why}");
}
