//! `linux.resources`, in the files of whichever cgroup version the machine has.

use serde_json::{Value, json};

use crate::bench::{Bench, is_v2};

tests![
    memory_limit,
    memory_reservation,
    memory_swap,
    memory_kernel,
    memory_kernel_tcp,
    memory_swappiness,
    memory_oom_killer,
    memory_hierarchy,
    memory_check,
    cpu_shares,
    cpu_quota_and_period,
    cpu_burst,
    cpu_realtime,
    cpu_sets,
    cpu_idle,
    huge_pages,
    network_class,
    network_priorities,
    processes,
    rdma,
    unified,
];

/// A file of a cgroup, and what is in it when the field holds.
pub type File = (&'static str, &'static str);

/// What one version makes of a field.
#[derive(Clone, Copy)]
pub enum Expected {
    /// It is in this file, or refused by the file's name where the machine has none.
    In(File),
    /// The same, but the kernel may also refuse it, by the file's name.
    Perhaps(File),
    /// It is refused with this phrase.
    Refused(&'static str),
}

use Expected::{In, Perhaps, Refused};

/// Makes a container with resources, which are to be as the machine's version has it.
pub fn check(bench: &Bench, resources: &Value, v1: Expected, v2: Expected) {
    let mut spec = bench.spec("true");
    spec["linux"]["resources"] = resources.clone();
    let expected = if is_v2() { v2 } else { v1 };
    let (name, value) = match expected {
        In(file) | Perhaps(file) => file,
        Refused(phrase) => {
            let why = bench.refusal(&spec);
            assert!(why.contains(phrase), "{resources}: {why}");
            return;
        }
    };
    let content = bench.run(&spec, |waiting| {
        let file = waiting.file(name);
        file.map(|file| std::fs::read_to_string(file).unwrap())
    });
    match content {
        Ok((Some(content), _)) => {
            let holds = content.lines().any(|line| line.trim() == value);
            assert!(holds, "{resources}: {name} is {content:?}");
        }
        Ok((None, _)) => panic!("{resources}: there is no {name}, and yet it was not refused"),
        Err(why) => {
            assert!(why.contains(name), "{resources}: {why}");
            let may = matches!(expected, Perhaps(_)) || !has(bench, name);
            assert!(may, "this machine has {name}: {why}");
        }
    }
}

/// Whether an ordinary container's cgroup has a file.
pub fn has(bench: &Bench, name: &str) -> bool {
    let spec = bench.spec("true");
    let found = bench.run(&spec, |waiting| waiting.file(name).is_some());
    found.unwrap().0
}

fn memory(bench: &Bench, memory: Value, v1: Expected, v2: Expected) {
    check(bench, &json!({ "memory": memory }), v1, v2);
}

fn cpu(bench: &Bench, cpu: Value, v1: Expected, v2: Expected) {
    check(bench, &json!({ "cpu": cpu }), v1, v2);
}

fn memory_limit(bench: &Bench) {
    memory(
        bench,
        json!({"limit": 67_108_864}),
        In(("memory.limit_in_bytes", "67108864")),
        In(("memory.max", "67108864")),
    );
}

fn memory_reservation(bench: &Bench) {
    memory(
        bench,
        json!({"reservation": 33_554_432}),
        In(("memory.soft_limit_in_bytes", "33554432")),
        In(("memory.low", "33554432")),
    );
}

fn memory_swap(bench: &Bench) {
    memory(
        bench,
        json!({"limit": 67_108_864, "swap": 100_663_296}),
        In(("memory.memsw.limit_in_bytes", "100663296")),
        In(("memory.swap.max", "33554432")),
    );
}

fn memory_kernel(bench: &Bench) {
    memory(
        bench,
        json!({"kernel": 33_554_432}),
        Perhaps(("memory.kmem.limit_in_bytes", "33554432")),
        Refused("kernel memory has no limit of its own on cgroup v2"),
    );
}

fn memory_kernel_tcp(bench: &Bench) {
    memory(
        bench,
        json!({"kernelTCP": 16_777_216}),
        In(("memory.kmem.tcp.limit_in_bytes", "16777216")),
        Refused("memory of TCP has no limit of its own on cgroup v2"),
    );
}

fn memory_swappiness(bench: &Bench) {
    memory(
        bench,
        json!({"swappiness": 17}),
        In(("memory.swappiness", "17")),
        Refused("swappiness is the machine's on cgroup v2"),
    );
}

fn memory_oom_killer(bench: &Bench) {
    memory(
        bench,
        json!({"disableOOMKiller": true}),
        In(("memory.oom_control", "oom_kill_disable 1")),
        Refused("the OOM killer cannot be disabled on cgroup v2"),
    );
}

fn memory_hierarchy(bench: &Bench) {
    let refused = Refused("useHierarchy");
    memory(bench, json!({"useHierarchy": false}), refused, refused);
    memory(
        bench,
        json!({"useHierarchy": true, "limit": 67_108_864}),
        In(("memory.limit_in_bytes", "67108864")),
        In(("memory.max", "67108864")),
    );
}

/// A new container's init is in its cgroup when the limits are set.
fn memory_check(bench: &Bench) {
    memory(
        bench,
        json!({"limit": 67_108_864, "checkBeforeUpdate": true}),
        In(("memory.limit_in_bytes", "67108864")),
        In(("memory.max", "67108864")),
    );
}

fn cpu_shares(bench: &Bench) {
    cpu(
        bench,
        json!({"shares": 512}),
        In(("cpu.shares", "512")),
        In(("cpu.weight", "59")),
    );
}

fn cpu_quota_and_period(bench: &Bench) {
    let both = json!({"quota": 20_000, "period": 50_000});
    let v2 = In(("cpu.max", "20000 50000"));
    cpu(bench, both.clone(), In(("cpu.cfs_quota_us", "20000")), v2);
    cpu(bench, both, In(("cpu.cfs_period_us", "50000")), v2);
}

fn cpu_burst(bench: &Bench) {
    cpu(
        bench,
        json!({"quota": 20_000, "period": 50_000, "burst": 10_000}),
        In(("cpu.cfs_burst_us", "10000")),
        In(("cpu.max.burst", "10000")),
    );
}

/// Its parent must have some of that time to give.
fn cpu_realtime(bench: &Bench) {
    let v2 = Refused("real-time scheduling cannot be limited on cgroup v2");
    cpu(
        bench,
        json!({"realtimeRuntime": 1000}),
        Perhaps(("cpu.rt_runtime_us", "1000")),
        v2,
    );
    cpu(
        bench,
        json!({"realtimePeriod": 500_000}),
        In(("cpu.rt_period_us", "500000")),
        v2,
    );
}

fn cpu_sets(bench: &Bench) {
    let cpus = In(("cpuset.cpus", "0"));
    cpu(bench, json!({"cpus": "0"}), cpus, cpus);
    let mems = In(("cpuset.mems", "0"));
    cpu(bench, json!({"mems": "0"}), mems, mems);
}

fn cpu_idle(bench: &Bench) {
    let idle = In(("cpu.idle", "1"));
    cpu(bench, json!({"idle": 1}), idle, idle);
}

fn huge_pages(bench: &Bench) {
    check(
        bench,
        &json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
        In(("hugetlb.2MB.limit_in_bytes", "4194304")),
        In(("hugetlb.2MB.max", "4194304")),
    );
    let refused = Refused("\"3MB\" is not a size of huge pages");
    let odd = json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 4_194_304}]});
    check(bench, &odd, refused, refused);
}

const NO_NETWORK: Expected = Refused("network classes and priorities do not exist on cgroup v2");

fn network_class(bench: &Bench) {
    check(
        bench,
        &json!({"network": {"classID": 1_048_577}}),
        In(("net_cls.classid", "1048577")),
        NO_NETWORK,
    );
}

fn network_priorities(bench: &Bench) {
    check(
        bench,
        &json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}),
        In(("net_prio.ifpriomap", "lo 3")),
        NO_NETWORK,
    );
}

fn processes(bench: &Bench) {
    let most = In(("pids.max", "17"));
    check(bench, &json!({"pids": {"limit": 17}}), most, most);
    // The init is one; none means as few as can be.
    for fewest in [0, 1] {
        let mut spec = bench.spec("");
        spec["process"]["args"] = json!(["/bin/echo", "runs"]);
        spec["linux"]["resources"] = json!({"pids": {"limit": fewest}});
        assert_eq!(bench.lines(&spec), ["runs"]);
    }
}

/// Only a machine that has such a device takes a limit for it.
fn rdma(bench: &Bench) {
    let limits = json!({"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 100}}});
    let most = Perhaps(("rdma.max", "mlx5_0 hca_handle=3 hca_object=100"));
    check(bench, &limits, most, most);
}

fn unified(bench: &Bench) {
    let v1 = Refused("unified resources exist on cgroup v2 only");
    check(
        bench,
        &json!({"unified": {"memory.high": "33554432"}}),
        v1,
        In(("memory.high", "33554432")),
    );
    check(
        bench,
        &json!({"unified": {"nonesuch.file": "1"}}),
        v1,
        Refused("nonesuch.file"),
    );
}
