//! How long a gate takes to decide about a container, as Kubernetes has one made in a namespace of many
//! services: `cargo run --release -p trefoil-policy --example decide`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trefoil_policy::{
    Configuration, CreateContainer, Gate, LayerDisk, Policy, Protection, Request, Root, SetUp,
    Streams,
};

/// How often each is done.
const ROUNDS: usize = 2000;

/// How many services there are, of seven variables each, and variables of the author's.
const SERVICES: usize = 40;
const OWN: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Policy::from_json(policy().to_string().as_bytes())?;
    let json = configuration().to_string().into_bytes();
    let mut gate = Gate::new(policy, Protection::Tee)?;
    gate.decide(Request::SetUp(SetUp {
        hostname: "web".into(),
        ..SetUp::default()
    }))?;
    let request = request(Configuration::from_json(&json)?);
    let (mut reading, mut deciding) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let read = Configuration::from_json(&json)?;
        reading.push(start.elapsed());
        drop(read);
        let asked = request.clone();
        let start = Instant::now();
        let approved = gate.decide(asked)?;
        deciding.push(start.elapsed());
        drop(approved);
        gate.not_created("w1");
    }
    say("read the configuration", reading);
    say("decide about it", deciding);
    Ok(())
}

fn say(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let (least, middle) = (took[0], took[took.len() / 2]);
    println!("{what}: {least:.1?} at least, {middle:.1?} in the middle of {ROUNDS}");
}

/// A filter as long as that of the runtimes' default.
fn seccomp() -> Value {
    let names = |from: usize, to: usize| (from..to).map(|at| format!("syscall_number_{at}"));
    let argument = json!([{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]);
    let more = (0..20).map(|at| {
        json!({"names": names(400 + at, 402 + at).collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW",
            "args": argument})
    });
    let first = json!({"names": names(0, 380).collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW"});
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": std::iter::once(first).chain(more).collect::<Vec<_>>()})
}

const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Mounts of memory beside that of proc, as many as a pod of several volumes has.
fn places() -> impl Iterator<Item = String> {
    (0..16).map(|at| format!("/var/lib/web/volume-{at}"))
}

fn policy() -> Value {
    let own = (0..OWN).map(|at| {
        json!({"name": {"exact": format!("WEB_SETTING_{at}")},
            "value": {"exact": format!("the value of the setting number {at}")}})
    });
    let service = json!({"name": {"typed": "service_variable"}, "value": {"typed": "service_value"},
        "optional": true});
    let mounts =
        places().map(|place| json!({"destination": place, "kind": "tmpfs", "options": ["nosuid"]}));
    let proc =
        json!({"destination": "/proc", "kind": "proc", "options": ["nosuid", "noexec", "nodev"]});
    json!({
        "version": 1,
        "sandbox": {"hostname": {"exact": "web"}},
        "containers": [{
            "name": "web", "kind": "app", "image": "cd".repeat(32),
            "layers": (0..8).map(|_| json!({"root_hash": "ab".repeat(32), "blocks": 10})).collect::<Vec<_>>(),
            "restart": "always",
            "process": {
                "command": ["/usr/bin/web", "--port", "80"],
                "env": own.chain([service]).collect::<Vec<_>>(),
                "user": {"uid": 0, "gid": 0}, "cwd": "/",
                "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            },
            "mounts": std::iter::once(proc).chain(mounts).collect::<Vec<_>>(),
            "namespaces": ["cgroup", "mount", "pid"], "seccomp": {"profile": seccomp()},
            "masked_paths": {"required": MASKED}, "readonly_paths": {"required": READ_ONLY},
            "oom_score": {"least": 0, "most": 1000}, "signals": [9, 15],
        }],
    })
}

fn configuration() -> Value {
    let own = (0..OWN).map(|at| format!("WEB_SETTING_{at}=the value of the setting number {at}"));
    let of_service = |at: usize| {
        let name = format!("BACKEND_NUMBER_{at}");
        [
            format!("{name}_SERVICE_HOST=10.96.0.{at}"),
            format!("{name}_SERVICE_PORT=8080"),
            format!("{name}_PORT=tcp://10.96.0.{at}:8080"),
            format!("{name}_PORT_8080_TCP=tcp://10.96.0.{at}:8080"),
            format!("{name}_PORT_8080_TCP_PROTO=tcp"),
            format!("{name}_PORT_8080_TCP_PORT=8080"),
            format!("{name}_PORT_8080_TCP_ADDR=10.96.0.{at}"),
        ]
    };
    let env: Vec<_> = own.chain((0..SERVICES).flat_map(of_service)).collect();
    let mounts = places().map(|place| {
        json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
    });
    let proc = json!({"destination": "/proc", "type": "proc", "source": "proc",
        "options": ["nosuid", "noexec", "nodev"]});
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/usr/bin/web", "--port", "80"], "env": env, "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        },
        "root": {"path": "rootfs"},
        "mounts": std::iter::once(proc).chain(mounts).collect::<Vec<_>>(),
        "linux": {
            "cgroupsPath": "/pod/w1",
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "seccomp": seccomp(), "maskedPaths": MASKED, "readonlyPaths": READ_ONLY,
            "resources": {"memory": {"limit": 67_108_864}, "cpu": {"shares": 100}},
        },
    })
}

fn request(configuration: Configuration) -> Request {
    Request::CreateContainer(Box::new(CreateContainer {
        container: "w1".into(),
        name: "web".into(),
        configuration,
        root: Root {
            verified: Some(LayerDisk {
                device: 1,
                erofs: true,
                parts: vec![12 * 4096; 8],
            }),
            ..Root::default()
        },
        streams: Streams::default(),
    }))
}
