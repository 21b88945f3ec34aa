//! What is written for which resources.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, from_value, json};

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::v2::{io_weight, weight};
use super::{plan_v1, plan_v2};

/// Plans from JSON as it comes over the wire, and shows the files that were to be written in
/// order.
fn plan(
    v2: bool,
    resources: Value,
    there: &[(&str, &str)],
) -> std::result::Result<Vec<String>, String> {
    let resources: LinuxResources = from_value(resources).unwrap();
    let there: HashMap<_, _> = there.iter().copied().collect();
    let current = |name: &str| there.get(name).map(|value| (*value).to_owned());
    let plan = if v2 {
        plan_v2(&resources, &current)
    } else {
        plan_v1(&resources)
    }?;
    let show = |(file, value): &(String, String)| format!("{file}={value}");
    Ok(plan
        .into_iter()
        .flatten()
        .map(|write| {
            let choices: Vec<String> = write.choices.iter().map(show).collect();
            format!(
                "{}{}",
                choices.join("|"),
                if write.optional { "?" } else { "" }
            )
        })
        .collect())
}

#[test]
fn memory_v1() {
    let of = |memory: Value| plan(false, json!({ "memory": memory }), &[]);
    assert_eq!(
        of(json!({"limit": 100, "swap": 200, "reservation": 50, "swappiness": 0})).unwrap(),
        [
            "memory.limit_in_bytes=100",
            "memory.memsw.limit_in_bytes=200",
            "memory.soft_limit_in_bytes=50",
            "memory.swappiness=0"
        ]
    );
    assert_eq!(
        of(json!({"limit": 100, "swap": 100})).unwrap()[1],
        "memory.memsw.limit_in_bytes=100?"
    );
    assert_eq!(
        of(json!({"limit": -1})).unwrap(),
        [
            "memory.limit_in_bytes=-1",
            "memory.memsw.limit_in_bytes=-1?"
        ]
    );
    assert_eq!(
        of(json!({"limit": 0, "swap": 0, "reservation": 0})).unwrap(),
        Vec::<String>::new()
    );
    assert!(of(json!({"limit": 100, "swap": 50})).is_err());
    assert!(of(json!({"limit": -2})).is_err());
    assert!(of(json!({"swappiness": 101})).is_err());
}

#[test]
fn memory_v2() {
    let of =
        |memory: Value, max: &str| plan(true, json!({ "memory": memory }), &[("memory.max", max)]);
    assert_eq!(
        of(json!({"limit": 100, "swap": 250, "reservation": -1}), "max").unwrap(),
        ["memory.swap.max=150", "memory.max=100", "memory.low=max"]
    );
    // Equal means no swap, which must not be confused with "not named".
    assert_eq!(
        of(json!({"limit": 100, "swap": 100}), "max").unwrap()[0],
        "memory.swap.max=0?"
    );
    assert_eq!(
        of(json!({"limit": -1}), "100").unwrap(),
        ["memory.swap.max=max?", "memory.max=max"]
    );
    assert_eq!(
        of(json!({"limit": 100}), "max").unwrap(),
        ["memory.max=100"]
    );
    // Only swap is named: the limit that is there counts.
    assert_eq!(
        of(json!({"swap": 250}), "100\n").unwrap(),
        ["memory.swap.max=150"]
    );
    assert_eq!(
        of(json!({"swap": 250}), "max\n").unwrap(),
        ["memory.swap.max=250"]
    );
    assert!(of(json!({"swap": 50}), "100").is_err());
    assert_eq!(
        of(json!({"limit": -1, "swap": 50}), "100").unwrap()[0],
        "memory.swap.max=50"
    );
}

#[test]
fn cpu() {
    let cpu = json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "burst": 10000, "cpus": "0", "mems": "0"}});
    assert_eq!(
        plan(false, cpu.clone(), &[]).unwrap(),
        [
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpu.cfs_burst_us=10000",
            "cpuset.cpus=0",
            "cpuset.mems=0"
        ]
    );
    assert_eq!(
        plan(true, cpu, &[]).unwrap(),
        [
            "cpu.weight=100",
            "cpu.max=50000 100000",
            "cpu.max.burst=10000",
            "cpuset.cpus=0",
            "cpuset.mems=0"
        ]
    );
    let v2 =
        |cpu: Value, max: &str| plan(true, json!({ "cpu": cpu }), &[("cpu.max", max)]).unwrap();
    assert_eq!(
        v2(json!({"quota": 5000}), "max 20000\n"),
        ["cpu.max=5000 20000"]
    );
    assert_eq!(
        v2(json!({"quota": -1}), "5000 20000\n"),
        ["cpu.max=max 20000"]
    );
    assert_eq!(
        v2(json!({"period": 50000}), "5000 20000\n"),
        ["cpu.max=5000 50000"]
    );
    assert_eq!(
        v2(
            json!({"quota": 0, "period": 0, "shares": 0}),
            "5000 20000\n"
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        v2(json!({"idle": 1, "shares": 512}), "max 100000"),
        ["cpu.idle=1"]
    );
    assert_eq!(
        v2(json!({"idle": 0, "shares": 1024}), "max 100000"),
        ["cpu.idle=0", "cpu.weight=100"]
    );
    assert!(plan(true, json!({"cpu": {"realtimeRuntime": 5}}), &[]).is_err());
}

#[test]
fn others() {
    let resources = json!({
        "pids": {"limit": 0},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]},
    });
    assert_eq!(
        plan(false, resources.clone(), &[]).unwrap(),
        [
            "pids.max=1",
            "blkio.weight=500|blkio.bfq.weight=500",
            "blkio.throttle.read_bps_device=8:0 0",
            "hugetlb.2MB.limit_in_bytes=4096",
            "hugetlb.2MB.rsvd.limit_in_bytes=4096?",
        ]
    );
    assert_eq!(
        plan(true, resources, &[]).unwrap(),
        [
            "pids.max=1",
            "io.bfq.weight=500|io.weight=4950",
            "io.max=8:0 rbps=max",
            "hugetlb.2MB.max=4096",
            "hugetlb.2MB.rsvd.max=4096?",
        ]
    );
    assert!(
        plan(
            true,
            json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
            &[]
        )
        .is_err()
    );
    assert_eq!(
        plan(
            true,
            json!({"unified": {"memory.high": "5", "cpu.max": "1 2\n3 4"}}),
            &[]
        )
        .unwrap(),
        ["cpu.max=1 2", "cpu.max=3 4", "memory.high=5"]
    );
    assert!(plan(true, json!({"unified": {"../x.y": "1"}}), &[]).is_err());
    assert!(plan(false, json!({"unified": {"memory.high": "5"}}), &[]).is_err());
}

#[test]
fn no_field_is_left_out() {
    let both = |resources: Value| [false, true].map(|v2| plan(v2, resources.clone(), &[]));
    let only_v1 = |resources: Value, expected: &[&str]| {
        let [v1, v2] = both(resources);
        assert_eq!(v1.unwrap(), expected);
        let refused = v2.unwrap_err();
        assert!(refused.ends_with("on cgroup v2"), "{refused}");
    };
    only_v1(
        json!({"memory": {"kernel": 5}}),
        &["memory.kmem.limit_in_bytes=5"],
    );
    only_v1(
        json!({"memory": {"kernelTCP": 5}}),
        &["memory.kmem.tcp.limit_in_bytes=5"],
    );
    only_v1(
        json!({"memory": {"swappiness": 5}}),
        &["memory.swappiness=5"],
    );
    only_v1(
        json!({"memory": {"disableOOMKiller": true}}),
        &["memory.oom_control=1"],
    );
    only_v1(
        json!({"network": {"classID": 7, "priorities": [{"name": "lo", "priority": 5}]}}),
        &["net_cls.classid=7", "net_prio.ifpriomap=lo 5"],
    );
    only_v1(
        json!({"cpu": {"realtimeRuntime": 5, "realtimePeriod": 9}}),
        &["cpu.rt_period_us=9", "cpu.rt_runtime_us=5"],
    );
    only_v1(
        json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}),
        &["blkio.leaf_weight_device=8:0 10"],
    );
    for plan in both(json!({"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 100}}})) {
        assert_eq!(
            plan.unwrap(),
            ["rdma.max=mlx5_0 hca_handle=3 hca_object=100"]
        );
    }
    for plan in both(json!({"memory": {"useHierarchy": false}})) {
        assert!(plan.unwrap_err().contains("useHierarchy"));
    }
    let meaningless = json!({
        "memory": {"useHierarchy": true, "kernel": 0, "kernelTCP": 0, "swappiness": u64::MAX},
        "network": {"classID": 0, "priorities": []},
        "cpu": {"realtimeRuntime": 0, "realtimePeriod": 0, "shares": 0},
        "unified": {}, "rdma": {}, "hugepageLimits": [],
    });
    for plan in both(meaningless) {
        assert_eq!(plan.unwrap(), Vec::<String>::new());
    }
    for shares in [1, 262_145] {
        assert!(plan(false, json!({"cpu": {"shares": shares}}), &[]).is_err());
        assert!(plan(true, json!({"cpu": {"shares": shares}}), &[]).is_ok());
    }
}

#[test]
fn devices_are_never_touched() {
    let devices = json!({"devices": [{"allow": false, "access": "rwm"}]});
    assert_eq!(
        plan(false, devices.clone(), &[]).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(plan(true, devices, &[]).unwrap(), Vec::<String>::new());
}

#[test]
fn weights_meet_at_least_usual_and_most() {
    for (shares, expected) in [
        (0, 1),
        (2, 1),
        (3, 2),
        (1024, 100),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight(shares), expected, "{shares}");
    }
    assert_eq!(
        (io_weight(10), io_weight(1000), io_weight(500)),
        (1, 10_000, 4950)
    );
}

proptest! {
    #[test]
    fn weights_are_monotonic_and_in_range(a: u64, b in 0u64..300_000) {
        for shares in [a, b] {
            prop_assert!((1..=10_000).contains(&weight(shares)));
            prop_assert!(weight(shares) <= weight(shares.saturating_add(1)));
        }
    }

    #[test]
    fn any_memory_request_is_planned_or_refused(limit: Option<i64>, swap: Option<i64>, soft: Option<i64>, max in "\\PC{0,6}|[0-9]{1,20}") {
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap).set_reservation(soft);
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory));
        let _ = plan_v1(&resources);
        let _ = plan_v2(&resources, &|_| Some(max.clone()));
    }
}
