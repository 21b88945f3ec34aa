//! A policy, and what a host asks of a guest that has it: all of it sound, in an order that is.

use serde_json::{Value, json};
use trefoil_agent_protocol::service::{
    AdjustClockRequest, ContainerRequest, CreateContainerRequest, Disk, ExecRequest, File,
    Filesystem, Nothing, ProcessRequest, PutFilesRequest, ResizeRequest, Rootfs, ScratchDisk,
    SetUpRequest, SignalRequest, Streams, UpdateRequest, VolumeRequest,
};
use trefoil_policy::{Digest, Policy};

use super::Message;

/// The devices of layers: one for each image.
const INIT_DISK: u32 = 3;
const WEB_DISK: u32 = 4;

/// What is in a file that the policy knows by its digest.
pub(super) const SETTINGS: &[u8] = b"colour: blue\n";

/// How many bytes a layer of ten blocks has with its tree.
const LAYER: u64 = 12 * 4096;

fn digest(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string()
}

fn process(command: &[&str]) -> Value {
    json!({
        "command": command,
        "env": [
            {"name": {"exact": "PATH"}, "value": {"exact": "/bin"}},
            {"name": {"exact": "TOKEN"}, "value": {"exact": "canary"}, "secret": true},
            {"name": {"typed": "service_variable"}, "value": {"typed": "service_value"}, "optional": true},
        ],
        "user": {"uid": 1000, "gid": 1001, "additional_gids": [5]},
        "cwd": "/srv",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "no_new_privileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
    })
}

fn container(name: &str, kind: &str, command: &[&str], layers: &[&str]) -> Value {
    let layers = layers
        .iter()
        .map(|layer| json!({"root_hash": digest(layer), "blocks": 10}));
    json!({
        "name": name,
        "kind": kind,
        "image": digest("image"),
        "layers": layers.collect::<Vec<_>>(),
        "restart": "always",
        "process": process(command),
        "read_only_root": true,
        "mounts": [
            {"destination": "/proc", "kind": "proc", "options": ["nosuid", "nodev", "noexec"]},
            {"destination": "/dev", "kind": "tmpfs", "options": ["nosuid", "mode=755", "size=64m"]},
            {"destination": "/dev/pts", "kind": "devpts", "options": ["newinstance", "ptmxmode=666", "gid=5"]},
            {"destination": "/dev/shm", "kind": "shared_memory", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "kind": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "kind": "cgroup", "options": ["ro"]},
            {"destination": "/dev/mqueue", "kind": "mqueue", "options": ["nosuid"]},
            {"destination": "/etc/hosts", "kind": {"volume": {"name": "etc-hosts"}}},
            {"destination": "/etc/settings", "kind": {"volume": {"name": "settings", "sub_path": "now"}}, "options": ["ro"]},
            {"destination": "/data", "kind": {"volume": {"name": "data"}}},
            {"destination": "/cache", "kind": {"volume": {"name": "cache"}}},
            {"destination": "/dev/termination-log", "kind": {"volume": {"name": "termination-log"}}},
        ],
        "namespaces": ["cgroup", "mount", "pid"],
        "seccomp": {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}},
        "masked_paths": {"required": ["/proc/kcore"], "optional": ["/proc/interrupts"]},
        "readonly_paths": {"required": ["/proc/sys"]},
        "devices": [{"path": "/dev/fuse", "kind": "character", "major": 10, "minor": 229,
            "mode": 438, "uid": 0, "gid": 0}],
        "device_rules": [{"kind": "character", "major": 10, "minor": 229, "access": ["read", "write"]}],
        "oom_score": {"least": 2, "most": 999},
        "resources": {
            "memory": {"least": 1_048_576, "most": 1_073_741_824},
            "cpu": {"least": 1000, "most": 200_000},
            "cpu_shares": {"least": 2, "most": 2048},
            "pids": {"least": 10, "most": 1000},
        },
        "update": {"memory": {"least": 1_048_576, "most": 1_073_741_824},
            "cpu": {"least": 1000, "most": 200_000}},
        "signals": [9, 15],
        "exec": [
            {"command": {"arguments": [{"exact": "/probe"}, {"one_of": ["live", "ready"]}]}},
            {"command": {"arguments": [{"exact": "sh"}], "more": true},
             "terminal": true, "output": true},
        ],
    })
}

/// The policy as JSON, to be changed.
pub(super) fn policy_value() -> Value {
    let mut init = container("init", "init", &["/bin/migrate", "--all"], &["init-layer"]);
    init["restart"] = "on_failure".into();
    let mut proxy = container("proxy", "sidecar", &["/bin/proxy"], &["top", "base"]);
    proxy["after"] = json!(["init"]);
    proxy["required"] = true.into();
    let mut web = container(
        "web",
        "app",
        &["/bin/web", "--port", "80"],
        &["top", "base"],
    );
    web["after"] = json!(["init", "proxy"]);
    json!({
        "version": 1,
        "sandbox": {
            "hostname": {"prefix": "web-"},
            "sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}],
            "not_before": 1_700_000_000,
            "start_within": 600,
        },
        "volumes": [
            {"name": "etc-hosts", "kind": {"files": {"files": [
                {"path": {"exact": ""}, "content": {"at_most": 4096}, "mode": 420}],
                "single": true, "update": true, "known_to_host": true}}},
            {"name": "settings", "kind": {"files": {"files": [
                {"path": {"exact": "now/settings.yaml"}, "content": {"digest": Digest::of(SETTINGS).to_string()}, "mode": 420},
                {"path": {"prefix": "now/extra-"}, "content": {"at_most": 16}, "mode": 420, "optional": true},
                {"path": {"exact": "now/extra-1/below"}, "content": {"at_most": 16}, "mode": 420, "optional": true}]}}},
            {"name": "loose", "kind": {"files": {"files": [
                {"path": {"typed": "text"}, "content": {"at_most": 16}, "mode": 420, "optional": true}]}}},
            {"name": "data", "kind": {"empty_dir": {"medium": "encrypted"}}},
            {"name": "cache", "kind": {"empty_dir": {"medium": "memory", "size": 1_048_576}}},
            {"name": "termination-log", "kind": "empty_file"},
        ],
        "containers": [init, proxy, web],
        "knobs": {"port_forward": [8080]},
    })
}

pub(super) fn policy() -> Policy {
    read(&policy_value())
}

pub(super) fn read(policy: &Value) -> Policy {
    Policy::from_json(policy.to_string().as_bytes()).expect("a policy")
}

/// One that allows everything.
pub(super) fn permissive_policy() -> Policy {
    let mut policy = policy_value();
    policy["permissive"] = true.into();
    policy["containers"] = json!([]);
    policy["sandbox"] = json!({"hostname": {"exact": "x"}});
    read(&policy)
}

/// The same, in which no limit changes.
pub(super) fn policy_without_updates() -> Policy {
    let mut policy = policy_value();
    for container in policy["containers"].as_array_mut().expect("a list") {
        container
            .as_object_mut()
            .expect("an object")
            .remove("update");
    }
    read(&policy)
}

/// The same, with every knob on.
pub(super) fn open_policy() -> Policy {
    let mut policy = policy_value();
    policy["knobs"] = json!({"logs": true, "attach": true, "stdin": true, "port_forward": [8080],
        "kernel_log": true});
    for container in policy["containers"].as_array_mut().expect("a list") {
        container["process"]["terminal"] = true.into();
        container["exec"][1]["stdin"] = true.into();
    }
    read(&policy)
}

/// The same, in which the host may not attach to terminals.
pub(super) fn policy_without_attach() -> Policy {
    let mut policy = open_policy();
    policy.knobs.attach = false;
    policy
}

/// A process as a configuration has it.
pub(super) fn process_configuration(args: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5]},
        "args": args,
        "env": ["PATH=/bin", "TOKEN=canary", "WEB_SERVICE_HOST=10.0.0.1"],
        "cwd": "/srv",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        "noNewPrivileges": true,
        "oomScoreAdj": 999,
    })
}

/// A container's configuration as the host's part of a confidential pod sends it.
pub(super) fn configuration(id: &str, args: &[&str]) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": process_configuration(args),
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "gid=5"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid"]),
            mount("/sys", "sysfs", "sysfs", &["ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]),
            mount("/etc/hosts", "bind", "files:etc-hosts", &["rbind", "rprivate", "rw"]),
            mount("/etc/settings", "bind", "files:settings", &["rbind", "rprivate", "ro"]),
            mount("/data", "bind", "scratch:data", &["rbind", "rprivate", "rw"]),
            mount("/cache", "bind", "memory:cache", &["rbind", "rprivate", "rw"]),
            mount("/dev/termination-log", "bind", "empty-file:termination-log", &["rbind", "rw"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev"]),
        ],
        "linux": {
            "cgroupsPath": format!("/pod/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "rootfsPropagation": "rprivate",
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                "fileMode": 438, "uid": 0, "gid": 0}],
            "resources": resources(),
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1,
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}]},
        },
    })
}

/// Limits, with the rules for devices.
fn resources() -> Value {
    json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
        "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "cpu": {"shares": 100, "quota": 5000, "period": 100_000},
        "pids": {"limit": 100},
        "unified": {"memory.oom.group": "1"},
    })
}

fn file(path: &str, contents: &[u8]) -> File {
    File {
        path: path.into(),
        contents: contents.into(),
        mode: 0o644,
        ..Default::default()
    }
}

fn put(volume: &str, file: File) -> Message {
    Message::PutFiles(PutFilesRequest {
        volume: volume.into(),
        files: vec![file],
        ..Default::default()
    })
}

fn create(id: &str, name: &str, args: &[&str], device: u32, layers: usize) -> Message {
    let disk = Disk {
        device,
        filesystem: Filesystem::EROFS.into(),
        parts: vec![LAYER; layers],
        ..Default::default()
    };
    let rootfs = Rootfs {
        verified: Some(disk).into(),
        ..Default::default()
    };
    let streams = Streams {
        stdout: device + 100,
        stderr: device + 200,
        ..Default::default()
    };
    Message::Create(CreateContainerRequest {
        container: id.into(),
        name: name.into(),
        configuration: configuration(id, args).to_string().into_bytes(),
        rootfs: Some(rootfs).into(),
        streams: Some(streams).into(),
        ..Default::default()
    })
}

pub(super) fn container_request(id: &str) -> ContainerRequest {
    ContainerRequest {
        container: id.into(),
        ..Default::default()
    }
}

pub(super) fn process_request(id: &str, process: &str) -> ProcessRequest {
    ProcessRequest {
        container: id.into(),
        process: process.into(),
        ..Default::default()
    }
}

pub(super) fn exec(id: &str, process: &str, args: &[&str]) -> ExecRequest {
    ExecRequest {
        container: id.into(),
        process: process.into(),
        configuration: process_configuration(args).to_string().into_bytes(),
        streams: Some(Streams {
            stdout: 301,
            stderr: 302,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

pub(super) fn set_up() -> SetUpRequest {
    SetUpRequest {
        hostname: "web-7d9f".into(),
        sysctls: [("net.ipv4.ip_forward".into(), "1".into())].into(),
        network: Vec::new(),
        time: 1_800_000_000_000_000_000,
        seed: vec![7; 64],
        initdata: b"bound".into(),
        scratch: Some(ScratchDisk {
            device: 9,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// All requests of a pod's life, each where it is sound.
pub(super) fn life() -> Vec<Message> {
    let signal = |id: &str| SignalRequest {
        container: id.into(),
        signal: 15,
        ..Default::default()
    };
    let update = UpdateRequest {
        container: "w1".into(),
        resources:
            json!({"memory": {"limit": 33_554_432}, "cpu": {"quota": 20_000, "period": 100_000}})
                .to_string()
                .into_bytes(),
        ..Default::default()
    };
    vec![
        Message::SetUp(set_up()),
        put("etc-hosts", file("", b"127.0.0.1 localhost\n")),
        put("settings", file("now/settings.yaml", SETTINGS)),
        create("i1", "init", &["/bin/migrate", "--all"], INIT_DISK, 1),
        Message::Start(container_request("i1")),
        Message::End("i1".into(), 0),
        Message::Wait(process_request("i1", "")),
        create("p1", "proxy", &["/bin/proxy"], WEB_DISK, 2),
        Message::Start(container_request("p1")),
        create("w1", "web", &["/bin/web", "--port", "80"], WEB_DISK, 2),
        Message::Start(container_request("w1")),
        Message::Exec(exec("w1", "e1", &["/probe", "live"])),
        Message::Signal(signal("w1")),
        Message::Update(update),
        Message::Stats(container_request("w1")),
        Message::Processes(container_request("w1")),
        Message::OutOfMemory(container_request("w1")),
        Message::Pause(container_request("w1")),
        Message::Resume(container_request("w1")),
        Message::CloseStdin(process_request("w1", "e1")),
        Message::Wait(process_request("w1", "e1")),
        Message::AdjustClock(AdjustClockRequest {
            offset: 1000,
            step: true,
            ..Default::default()
        }),
        put("etc-hosts", file("", b"127.0.0.1 localhost web\n")),
        Message::Delete(container_request("i1")),
        Message::PowerOff(Nothing::default()),
    ]
}

/// Where in [`life`] something is sound.
pub(super) fn place(wanted: impl Fn(&Message) -> bool) -> usize {
    life()
        .iter()
        .position(wanted)
        .expect("a message of the life")
}

/// Where in [`life`] a container is made.
pub(super) fn creation_of(id: &str) -> usize {
    place(|message| matches!(message, Message::Create(one) if one.container == id))
}

pub(super) fn resize(id: &str, process: &str) -> ResizeRequest {
    ResizeRequest {
        container: id.into(),
        process: process.into(),
        width: 80,
        height: 24,
        ..Default::default()
    }
}

pub(super) fn volume(share: &str) -> VolumeRequest {
    VolumeRequest {
        share: share.into(),
        ..Default::default()
    }
}
