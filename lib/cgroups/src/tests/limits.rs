//! Limits and devices.

use super::*;

#[test]
fn memory_up_and_down() {
    const MIB: i64 = 1 << 20;
    let mut rig = Rig::new();
    rig.run("x=$(head -c 2000000 /dev/zero | tr '\\0' x); sleep 100");
    eventually("some use of memory", || {
        let usage = rig.value("memory.usage_in_bytes", "memory.current");
        usage.parse::<i64>().unwrap() > MIB
    });
    let limit = |rig: &Rig| rig.value("memory.limit_in_bytes", "memory.max");
    let steps = [
        (64, 128),
        (256, 512),
        (512, 512),
        (32, 64),
        (40, 48),
        (16, 256),
    ];
    for (memory, both) in steps.map(|(memory, both)| (memory * MIB, both * MIB)) {
        rig.update(json!({"memory": {"limit": memory, "swap": both, "reservation": memory / 2}}))
            .unwrap();
        assert_eq!(limit(&rig), memory.to_string());
        if !rig.v2() {
            assert_eq!(
                rig.value("memory.memsw.limit_in_bytes", ""),
                both.to_string()
            );
        } else if rig.cgroup.path().join("memory.swap.max").exists() {
            assert_eq!(
                rig.value("", "memory.swap.max"),
                (both - memory).to_string()
            );
        }
        assert_eq!(
            rig.value("memory.soft_limit_in_bytes", "memory.low"),
            (memory / 2).to_string()
        );
    }
    rig.update(json!({"memory": {}})).unwrap();
    assert_eq!(limit(&rig), (16 * MIB).to_string());
    rig.update(json!({"memory": {"limit": -1}})).unwrap();
    let unlimited = limit(&rig);
    assert!(
        unlimited == "max" || unlimited.parse::<u64>().unwrap() > 1 << 40,
        "{unlimited}"
    );
    let refused = rig
        .update(json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}))
        .unwrap_err();
    assert!(refused.to_string().contains("bytes in use"), "{refused}");
}

#[test]
fn cpu_up_and_down() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    for (quota, period, burst) in [
        (50_000, 100_000, 20_000),
        (5_000, 50_000, 1_000),
        (90_000, 100_000, 80_000),
    ] {
        rig.update(
            json!({"cpu": {"quota": quota, "period": period, "burst": burst, "shares": 512}}),
        )
        .unwrap();
        if rig.v2() {
            assert_eq!(rig.value("", "cpu.max"), format!("{quota} {period}"));
            assert_eq!(rig.value("", "cpu.weight"), "59");
        } else {
            assert_eq!(rig.value("cpu.cfs_quota_us", ""), quota.to_string());
            assert_eq!(rig.value("cpu.cfs_period_us", ""), period.to_string());
            assert_eq!(rig.value("cpu.shares", ""), "512");
        }
        assert_eq!(
            rig.value("cpu.cfs_burst_us", "cpu.max.burst"),
            burst.to_string()
        );
    }
    rig.update(json!({"cpu": {"quota": -1, "burst": 0, "cpus": "0", "mems": "0"}}))
        .unwrap();
    assert_eq!(
        rig.value("cpu.cfs_quota_us", "cpu.max").split(' ').next(),
        Some(if rig.v2() { "max" } else { "-1" })
    );
    assert_eq!(rig.value("cpuset.cpus", "cpuset.cpus"), "0");
    let nonsense = rig.update(json!({"cpu": {"cpus": "999999"}})).unwrap_err();
    assert!(nonsense.to_string().contains("cpuset.cpus"), "{nonsense}");
}

#[test]
fn pids_and_unified() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    rig.update(json!({"pids": {"limit": 7}})).unwrap();
    assert_eq!(rig.value("pids.max", "pids.max"), "7");
    rig.update(json!({"pids": {"limit": -1}})).unwrap();
    assert_eq!(rig.value("pids.max", "pids.max"), "max");
    let high = rig.update(json!({"unified": {"memory.high": "16777216"}}));
    if rig.v2() {
        high.unwrap();
        assert_eq!(rig.value("", "memory.high"), "16777216");
        assert!(rig.update(json!({"unified": {"none.such": "1"}})).is_err());
    } else {
        assert!(high.unwrap_err().to_string().contains("v2 only"));
    }
}

#[test]
fn the_limits_of_a_new_container() {
    let mut rig = Rig::new();
    let limit = |rig: &Rig, resources: Value| {
        let resources: LinuxResources = from_value(resources).unwrap();
        rig.cgroup.limit(Some(&resources))
    };
    rig.cgroup.create().unwrap();
    rig.run("exec sleep 100");
    rig.cgroup.limit(None).unwrap();
    assert!(!can(&mut rig, "exec 3</dev/kmsg"), "nothing was allowed");
    assert!(can(&mut rig, "exec 3<>/dev/null"));
    limit(
        &rig,
        json!({
            "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}],
            "memory": {"limit": 104_857_600, "reservation": 52_428_800, "swap": 104_857_600},
            "cpu": {"shares": 555, "quota": 70000, "period": 140_000, "burst": 20000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 0},
        }),
    )
    .unwrap();
    for (v1, v2, value) in [
        ("memory.limit_in_bytes", "memory.max", "104857600"),
        ("memory.soft_limit_in_bytes", "memory.low", "52428800"),
        (
            "cpu.shares",
            "cpu.weight",
            if rig.v2() { "62" } else { "555" },
        ),
        ("cpu.cfs_burst_us", "cpu.max.burst", "20000"),
        ("cpuset.cpus", "cpuset.cpus", "0"),
        ("pids.max", "pids.max", "1"),
    ] {
        assert_eq!(rig.value(v1, v2), value, "{v1}");
    }
    limit(&rig, json!({"pids": {"limit": 100}, "devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]})).unwrap();
    assert!(can(&mut rig, "exec 3</dev/kmsg"));
    for (resources, named) in [
        (
            json!({"devices": [{"allow": true, "type": "p", "access": "r"}]}),
            "device rule 0",
        ),
        (json!({"memory": {"useHierarchy": false}}), "useHierarchy"),
        (
            json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}),
            "3MB",
        ),
        (json!({"rdma": {"mlx5_0": {"hcaHandles": 3}}}), "rdma.max"),
        (
            json!({"memory": {"limit": 100, "swap": 50}}),
            "less than memory",
        ),
    ] {
        let refused = limit(&rig, resources).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
    if rig.v2() {
        return;
    }
    limit(&rig, json!({"memory": {"kernelTCP": 40_960_000, "swappiness": 7, "disableOOMKiller": true, "useHierarchy": true}})).unwrap();
    assert_eq!(rig.value("memory.kmem.tcp.limit_in_bytes", ""), "40960000");
    assert_eq!(rig.value("memory.swappiness", ""), "7");
    assert!(
        rig.value("memory.oom_control", "")
            .starts_with("oom_kill_disable 1")
    );
    for (resources, named) in [
        (json!({"memory": {"kernel": 50_000_000}}), "kmem"),
        (json!({"unified": {"memory.high": "5"}}), "v2 only"),
        (json!({"cpu": {"shares": 1}}), "shares of 1"),
        (json!({"memory": {"limit": 4096}}), "bytes in use"),
    ] {
        let refused = limit(&rig, resources).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
}

#[test]
fn device_lists_of_v1_are_exactly_what_was_asked_for() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    let Some(dir) = rig.cgroup.v1(Controller::Devices).map(Path::to_owned) else {
        return; // v2 has no lists
    };
    let list = |rules: Value| {
        let rules: Vec<_> = from_value(rules).unwrap();
        rig.cgroup.allow_devices(&rules).unwrap();
        let text = fs::read_to_string(dir.join("devices.list")).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let defaults = [
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ];
    assert_eq!(list(json!([])), defaults);
    // What comes before "deny all" does not hold.
    let early = json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}, {"allow": false, "access": "rwm"}]);
    assert_eq!(list(early), defaults);
    let all = json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]);
    assert_eq!(list(all), ["a *:* rwm"]);
    let one = list(json!([{"allow": true, "type": "b", "major": 259, "minor": 7, "access": "r"}]));
    assert_eq!(one.len(), defaults.len() + 1);
    assert!(one.contains(&"b 259:7 r".to_owned()));
}

#[test]
fn devices() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    let allow = |rig: &Rig, rules: Value| {
        let rules: Vec<_> = from_value(rules).unwrap();
        rig.cgroup.allow_devices(&rules).unwrap();
    };
    let deny = json!({"allow": false, "access": "rwm"});
    allow(&rig, json!([deny]));
    let read = "exec 3</dev/kmsg";
    let write = "exec 3>/dev/kmsg";
    assert!(!can(&mut rig, read));
    assert!(can(
        &mut rig,
        "exec 3</dev/null 4>/dev/null 5</dev/urandom 6<>/dev/ptmx"
    ));
    assert!(
        can(&mut rig, "f=/tmp/trefoil-node-$$; mknod $f c 1 11 && rm $f"),
        "making a node is allowed"
    );

    allow(
        &rig,
        json!([deny, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
    );
    assert!(can(&mut rig, read));
    assert!(!can(&mut rig, write));
    allow(&rig, json!([deny, {"allow": true, "access": "rwm"}]));
    assert!(
        can(&mut rig, read) && can(&mut rig, write),
        "the old rules are gone"
    );
    let hole = json!([{"allow": true, "type": "a"}, {"allow": false, "type": "c", "major": 1, "access": "w"}]);
    if rig.v2() {
        allow(&rig, hole);
        assert!(can(&mut rig, read));
        assert!(!can(&mut rig, write));
        assert!(
            can(&mut rig, "exec 3>/dev/null"),
            "no rule takes away the defaults"
        );
    } else {
        let rules: Vec<_> = from_value(hole).unwrap();
        let refused = rig.cgroup.allow_devices(&rules).unwrap_err();
        assert!(refused.to_string().contains("can't take"), "{refused}");
    }
    // As long a list as a big machine's.
    let many: Vec<Value> = std::iter::once(deny.clone())
        .chain((0..300).map(|minor| json!({"allow": true, "type": "b", "major": 259, "minor": minor, "access": "rw"})))
        .collect();
    allow(&rig, Value::Array(many));
    assert!(!can(&mut rig, read));
}

#[test]
fn device_rules_of_the_parent_hold_too() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    if !rig.v2() {
        return; // covered by the kernel's own lists
    }
    let below = rig.cgroup.path().join("below");
    fs::create_dir(&below).unwrap();
    let path = below.strip_prefix("/sys/fs/cgroup").unwrap();
    let child = Cgroup::new(Some(path), "test", false).unwrap();
    let all = json!([{"allow": true, "access": "rwm"}]);
    rig.cgroup
        .allow_devices(&from_value::<Vec<_>>(json!([{"allow": false, "access": "rwm"}])).unwrap())
        .unwrap();
    child
        .allow_devices(&from_value::<Vec<_>>(all).unwrap())
        .unwrap();
    rig.run(&format!(
        "echo $$ >{}/cgroup.procs; exec 3</dev/kmsg",
        below.display()
    ));
    assert!(!rig.wait().success());
}
