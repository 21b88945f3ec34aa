//! What becomes of configurations as containerd's CRI makes them, and of what may be in them besides.

use proptest::prelude::*;
use serde_json::{Value, json};
use trefoil_core::{NodeNamespaces, SandboxConfig};

use super::*;

mod devices;

/// Stands in every place that names something of the host's.
const MARK: &str = "/of-the-host";

const POD: Pod<'_> = Pod {
    id: "pod1",
    pid: 4711,
    lone: false,
    apart: false,
    compares: false,
};

/// A container's configuration as CRI makes it.
fn of_a_container() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
            "args": ["sleep", "inf"],
            "env": ["PATH=/bin", "HOSTNAME=pod"],
            "cwd": "/srv",
            "capabilities": {
                "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
            "noNewPrivileges": true,
            "apparmorProfile": "cri-containerd.apparmor.d",
            "oomScoreAdj": 999
        },
        "root": {"path": "/of-the-host/rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/of-the-host/hosts",
             "options": ["rbind", "rprivate", "rw"]},
            {"destination": "/etc/config", "type": "bind", "source": "/of-the-host/config",
             "options": ["rbind", "rprivate", "ro"]},
            {"destination": "/dev/shm", "type": "bind",
             "source": "/of-the-host/sandboxes/pod1/shm", "options": ["rbind", "rprivate", "rw"]}
        ],
        "annotations": {"io.kubernetes.cri.container-type": "container"},
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "ipc", "path": "/proc/4711/ns/ipc"},
                {"type": "uts", "path": "/proc/4711/ns/uts"},
                {"type": "mount"},
                {"type": "network", "path": "/proc/4711/ns/net"},
                {"type": "cgroup"}
            ],
            "cgroupsPath": "/of-the-host/pod1/c1",
            "mountLabel": "system_u:object_r:container_file_t:s0:c1,c2",
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 100, "quota": 5000, "period": 100_000, "cpus": "8-9", "mems": "1"},
                "pids": {"limit": 100},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "unified": {"memory.oom.group": "1"}
            },
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"]}
        }
    })
}

fn translated(configuration: &Value, pod: Pod<'_>) -> Result<(Spec, Vec<Volume>)> {
    let spec = serde_json::from_value(configuration.clone()).expect("a configuration");
    let mut volumes = Vec::new();
    let spec = translate("c1", &spec, pod, &mut |volume| {
        volumes.push(volume);
        format!("share:v{}", volumes.len())
    })?;
    Ok((spec, volumes))
}

/// The configuration, with something put where `pointer` says.
fn with(pointer: &str, what: Value) -> Value {
    let mut all = of_a_container();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = all.pointer_mut(parent).expect("its parent");
    match parent {
        Value::Array(list) => list.push(what),
        parent => parent[name] = what,
    }
    all
}

#[test]
fn a_label_is_the_machines_and_refused_where_nobody_enforces_it() {
    let label = "system_u:system_r:container_kvm_t:s0:c1,c2";
    let mut asked = Process::default();
    asked.set_selinux_label(Some(label.into()));
    match (process(&asked), trefoil_os::selinux::is_enabled()) {
        (Ok(process), true) => assert_eq!(process.selinux_label(), &None),
        (Err(why), false) => assert!(why.to_string().contains(label), "{why}"),
        other => panic!("{other:?}"),
    }
    // What is no label is none.
    asked.set_selinux_label(Some(String::new()));
    assert!(process(&asked).is_ok());
}

#[test]
fn a_container_of_cri_arrives_without_the_host() {
    let (spec, volumes) = translated(&of_a_container(), POD).expect("translated");
    let got = serde_json::to_value(&spec).expect("written");
    let mut expected = of_a_container();
    expected["root"] = json!({"path": "rootfs", "readonly": true});
    expected["mounts"][3]["source"] = "share:v1".into();
    expected["mounts"][4]["source"] = "share:v2".into();
    expected["mounts"][5] = json!({
        "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "noexec", "nodev"]
    });
    let linux = &mut expected["linux"];
    linux["cgroupsPath"] = "/pod/c1".into();
    linux["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]);
    for (parent, name) in [
        ("", "annotations"),
        ("/process", "apparmorProfile"),
        ("/linux", "mountLabel"),
        ("/linux/resources", "hugepageLimits"),
        ("/linux/resources/cpu", "cpus"),
        ("/linux/resources/cpu", "mems"),
    ] {
        let parent = expected.pointer_mut(parent).expect("a parent");
        parent.as_object_mut().expect("an object").remove(name);
    }
    assert_eq!(got, expected);
    let volume = |path: &str, read_only| Volume {
        path: path.into(),
        submounts: true,
        read_only,
    };
    assert_eq!(
        volumes,
        [
            volume("/of-the-host/hosts", false),
            volume("/of-the-host/config", true)
        ]
    );
}

#[test]
fn what_no_guest_has_is_refused_by_name_and_with_a_way_out() {
    let device = |path: &str| json!({"path": path, "type": "c", "major": 10, "minor": 1});
    let mount = |kind: &str, options: &[&str]| json!({"destination": "/m", "type": kind, "source": "/x", "options": options});
    let mut two = with("/linux/devices", json!([device("/dev/one")]));
    two["linux"]["devices"]
        .as_array_mut()
        .expect("list")
        .push(device("/dev/two"));
    for (configuration, words) in [
        (
            with("/hooks", json!({"poststop": [{"path": "/bin/true"}]})),
            "hooks",
        ),
        (
            with("/process/apparmorProfile", "mine".into()),
            "AppArmor profile mine",
        ),
        (
            with("/linux/devices", json!([device("/dev/kvm")])),
            "/dev/kvm, a device",
        ),
        (two, "privileged_without_host_devices"),
        (
            with(
                "/linux/uidMappings",
                json!([{"hostID": 1, "containerID": 0, "size": 1}]),
            ),
            "hostUsers",
        ),
        (
            with("/linux/namespaces/-", json!({"type": "user"})),
            "hostUsers",
        ),
        (
            with("/linux/namespaces/-", json!({"type": "time", "path": "/t"})),
            "time namespace /t",
        ),
        (
            with(
                "/linux/namespaces/-",
                json!({"type": "pid", "path": "/proc/7/ns/pid"}),
            ),
            "--target",
        ),
        (
            with("/linux/netDevices", json!({"eth7": {}})),
            "network devices",
        ),
        (with("/linux/intelRdt", json!({"closID": "gold"})), "RDT"),
        (
            with("/linux/sysctl", json!({"net.a": "1"})),
            "securityContext.sysctls",
        ),
        (
            with("/linux/rootfsPropagation", "rshared".into()),
            "mounts that reach the host",
        ),
        (
            with("/linux/seccomp/listenerPath", "/s".into()),
            "SCMP_ACT_NOTIFY",
        ),
        (
            with("/mounts/-", mount("bind", &["rbind", "rshared"])),
            "Bidirectional, at /m",
        ),
        (
            with("/mounts/-", mount("bind", &["rbind", "ridmap"])),
            "owners are mapped (at /m)",
        ),
        (with("/mounts/-", mount("nfs", &[])), "type \"nfs\" (at /m)"),
        (
            with(
                "/linux/resources/hugepageLimits",
                json!([{"pageSize": "1GB", "limit": 1}]),
            ),
            "huge pages of 1GB",
        ),
        (
            with("/linux/resources/rdma", json!({"mlx": {"hcaHandles": 1}})),
            "RDMA",
        ),
        (
            with(
                "/linux/resources/blockIO",
                json!({"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}),
            ),
            "blockio",
        ),
    ] {
        let why = translated(&configuration, POD)
            .expect_err(words)
            .to_string();
        assert!(why.starts_with("a microVM pod can't have "), "{why}");
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[test]
fn what_means_nothing_more_is_no_reason_to_refuse() {
    for configuration in [
        with("/process/apparmorProfile", "unconfined".into()),
        with(
            "/linux/devices",
            json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]),
        ),
        with("/hooks", json!({"poststop": []})),
        with("/linux/uidMappings", json!([])),
        with("/linux/resources/blockIO", json!({"weight": 100})),
        with(
            "/mounts/-",
            json!({"destination": "/m", "type": "bind", "source": "/x", "options": ["rslave"]}),
        ),
    ] {
        translated(&configuration, POD).expect("translated");
    }
}

#[test]
fn the_pods_processes_are_the_guests() {
    let mut shared = of_a_container();
    shared["linux"]["namespaces"][0]["path"] = "/proc/4711/ns/pid".into();
    let (spec, _) = translated(&shared, POD).expect("translated");
    let got = serde_json::to_value(&spec).expect("written");
    assert_eq!(
        got["linux"]["namespaces"],
        json!([{"type": "mount"}, {"type": "cgroup"}])
    );
}

#[test]
fn one_among_anothers_processes_is_refused_though_all_have_the_machines_number() {
    let mut debugger = of_a_container();
    debugger["linux"]["namespaces"][0]["path"] = "/proc/4711/ns/pid".into();
    let beside_others = Pod { apart: true, ..POD };
    let why = translated(&debugger, beside_others).expect_err("another's");
    assert!(why.to_string().contains("--target"), "{why}");
}

#[test]
fn a_pod_that_is_one_container_has_its_settings_made_before() {
    let settings = with("/linux/sysctl", json!({"net.a": "1"}));
    let lone = Pod { lone: true, ..POD };
    let (spec, _) = translated(&settings, lone).expect("translated");
    assert_eq!(
        spec.linux()
            .as_ref()
            .and_then(|linux| linux.sysctl().as_ref()),
        None
    );
}

#[test]
fn a_pod_of_the_nodes_own_namespaces_is_refused_by_name() {
    let node = |network, pid, ipc| SandboxConfig {
        node_namespaces: NodeNamespaces { network, pid, ipc },
        ..SandboxConfig::default()
    };
    let users = SandboxConfig {
        user_namespace: true,
        ..SandboxConfig::default()
    };
    for (config, name) in [
        (node(true, false, false), "hostNetwork"),
        (node(false, true, false), "hostPID"),
        (node(false, false, true), "hostIPC"),
        (users, "hostUsers"),
    ] {
        let why = check_pod(&config).expect_err(name).to_string();
        assert!(why.contains(name), "{name}: {why}");
    }
    assert_eq!(check_pod(&SandboxConfig::default()), Ok(()));
}

/// Somewhere on the host.
fn host_path() -> impl Strategy<Value = String> {
    "[a-z]{1,8}(/[a-z]{1,8}){0,2}".prop_map(|rest| format!("{MARK}/{rest}"))
}

fn any_mount() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        "bind", "", "proc", "tmpfs", "sysfs", "cgroup", "mqueue", "devpts", "ext4", "overlay",
    ]);
    let options = prop::collection::vec(
        prop::sample::select(vec![
            "bind", "rbind", "ro", "rw", "rslave", "rshared", "nosuid", "idmap",
        ]),
        0..4,
    );
    (kind, options, host_path()).prop_map(|(kind, options, source)| {
        json!({"destination": "/m", "type": kind, "source": source, "options": options})
    })
}

fn any_namespace() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        "pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time",
    ]);
    (kind, prop::option::of(host_path())).prop_map(|(kind, path)| match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    })
}

proptest! {
    /// Whatever is asked for, the guest is told of no place on the host, and of nothing that its agent
    /// refuses.
    #[test]
    fn nothing_of_the_host_gets_through(
        mounts in prop::collection::vec(any_mount(), 0..4),
        namespaces in prop::collection::vec(any_namespace(), 0..6),
        cgroup in host_path(),
        devices in prop::option::of(host_path()),
        hook in prop::option::of(host_path()),
        listener in prop::option::of(host_path()),
        annotation in prop::option::of(host_path()),
    ) {
        let mut all = of_a_container();
        all["mounts"] = mounts.into();
        all["linux"]["namespaces"] = namespaces.into();
        all["linux"]["cgroupsPath"] = cgroup.into();
        if let Some(path) = devices {
            all["linux"]["devices"] = json!([{"path": path, "type": "b", "major": 8, "minor": 0}]);
        }
        if let Some(path) = hook {
            all["hooks"] = json!({"createRuntime": [{"path": path}]});
        }
        if let Some(path) = listener {
            all["linux"]["seccomp"]["listenerPath"] = path.into();
        }
        if let Some(path) = annotation {
            all["annotations"]["a"] = path.into();
        }
        let Ok((spec, volumes)) = translated(&all, POD) else {
            return Ok(());
        };
        let mut got = serde_json::to_value(&spec).expect("written");
        let mut shared = 0;
        for mount in got["mounts"].as_array_mut().expect("mounts") {
            let options = mount["options"].to_string();
            if mount["type"] == "bind" || options.contains("bind") {
                shared += 1;
                let name = format!("share:v{shared}");
                prop_assert_eq!(mount["source"].as_str(), Some(name.as_str()));
            } else {
                // A filesystem of the kernel's own looks at no source.
                mount["source"] = "none".into();
            }
        }
        prop_assert_eq!(shared, volumes.len());
        for namespace in got["linux"]["namespaces"].as_array().expect("namespaces") {
            prop_assert_eq!(&namespace["path"], &Value::Null);
            let kind = namespace["type"].as_str().unwrap_or_default();
            prop_assert!(!["network", "ipc", "uts", "user"].contains(&kind), "{}", kind);
        }
        prop_assert!(!got.to_string().contains(MARK), "{}", got);
    }
}
