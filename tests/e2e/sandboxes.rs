//! Pods that containerd's Sandbox API makes (`sandboxer = "shim"`): without a container of their own. These
//! are of such handlers, of the isolation that the other trials are of.

mod deaths;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::Handler;
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use rig::sandbox_api::{SandboxApi, bundle};
use serde_json::{Value, json};

use crate::e2e::{Body, Env, patience, same};

/// What the names of these trials begin with.
pub const PART: &str = "sandboxes::";

/// The one that makes a machine.
pub const RAISES: &str = "sandboxes::annotation_raises";

/// The one of a user namespace.
pub const USERS: &str = "sandboxes::user_namespace";

/// The one of a pod whose containers see each other's processes.
pub const SHARED_PROCESSES: &str = "sandboxes::shared_processes";

pub const TRIALS: &[(&str, Body)] = &[
    ("sandboxes::two_containers", two_containers),
    ("sandboxes::files", files),
    ("sandboxes::requests", requests),
    ("sandboxes::another_sandbox", another_sandbox),
    ("sandboxes::host_network", host_network),
    (SHARED_PROCESSES, shared_processes),
    (USERS, user_namespace),
    ("sandboxes::annotation_refused", annotation_refused),
    (RAISES, annotation_raises),
    (
        "sandboxes::containerd_restarted",
        deaths::containerd_restarted,
    ),
    ("sandboxes::shim_killed", deaths::shim_killed),
    (
        "sandboxes::shim_killed_while_containerd_is_down",
        deaths::shim_killed_while_containerd_is_down,
    ),
    (
        "sandboxes::shim_killed_in_a_stop",
        deaths::shim_killed_in_a_stop,
    ),
    ("sandboxes::sandbox_killed", deaths::sandbox_killed),
    ("sandboxes::forgotten_server", deaths::forgotten_server),
    (
        "sandboxes::stopped_while_a_container_is_made",
        deaths::stopped_while_a_container_is_made,
    ),
];

fn handler(env: &Env) -> Result<Handler> {
    let handler = env.handler.by_sandbox_api();
    handler.with_context(|| format!("{} has no pods by the Sandbox API", env.handler))
}

fn run(env: &Env, spec: PodSpec) -> Result<Pod<'_>> {
    Pod::run(&env.rig, handler(env)?, spec)
}

fn api(env: &Env, pod: &Pod<'_>) -> Result<SandboxApi> {
    SandboxApi::connect(&env.rig, &pod.id, &pod.id)
}

/// The process that holds a pod.
fn holder(env: &Env, pod: &Pod<'_>) -> Result<u32> {
    let pid = api(env, pod)?.status()?.pid;
    ensure!(pid > 1, "the pod's pid is {pid}");
    Ok(pid)
}

fn says(container: &Container<'_>, line: &str) -> Result<String> {
    container.exec(&["sh", "-c", line])?.text()
}

fn namespace(process: &str, name: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/{name}"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// Whether a process has a namespace of another's.
fn shares(process: u32, name: &str, other: &str) -> Result<bool> {
    Ok(namespace(&process.to_string(), name)? == namespace(other, name)?)
}

/// No container holds the pod, and its namespaces are its containers', not the node's.
fn two_containers(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let [one, two] = [
        pod.start(&ContainerSpec::idle())?,
        pod.start(&ContainerSpec::idle())?,
    ];
    let known = env
        .rig
        .ctr_of_pods(&["containers", "list", "--quiet"])?
        .text()?;
    ensure!(
        !known.contains(&pod.id),
        "the pod has a container of its own"
    );
    let address = |container| {
        says(
            container,
            "ip -4 -o addr show eth0 | tr -s ' ' | cut -d ' ' -f 4",
        )
    };
    same("addresses", address(&one)?, address(&two)?)?;
    ensure!(!address(&one)?.is_empty(), "there is no address");
    if !env.handler.makes_machines() {
        let holder = holder(env, &pod)?;
        for container in [&one, &two] {
            let pid = u32::try_from(container.pid()?)?;
            for name in ["net", "ipc", "uts"] {
                ensure!(
                    shares(pid, name, &holder.to_string())?,
                    "{name} is not the pod's"
                );
                ensure!(!shares(pid, name, "self")?, "{name} is the node's");
            }
            ensure!(
                !shares(pid, "pid", &holder.to_string())?,
                "processes are shared"
            );
        }
        let status = fs::read_to_string(format!("/proc/{holder}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        same("capabilities", field("CapEff:"), "0".repeat(16))?;
        same("seccomp", field("Seccomp:").as_str(), "2")?;
        let [name, limit] = ["VmRSS:", "VmPeak:"].map(field);
        println!("the holder has {name}, and at most {limit}");
    }
    pod.stop()?;
    same("end", one.ended()?.0, 137)?;
    pod.remove()
}

fn described() -> PodSpec {
    PodSpec {
        more: json!({
            "hostname": "in-a-sandbox",
            "dns_config": {
                "servers": ["10.1.2.3", "10.4.5.6"],
                "searches": ["a.test", "b.test"],
                "options": ["ndots:7"],
            },
            "linux": { "sysctls": { "kernel.shm_rmid_forced": "1" } },
        }),
        ..PodSpec::default()
    }
}

/// What containerd makes for a pod elsewhere is there.
fn files(env: &Env) -> Result<()> {
    let pod = run(env, described())?;
    let [one, two] = [
        pod.start(&ContainerSpec::idle())?,
        pod.start(&ContainerSpec::idle())?,
    ];
    for container in [&one, &two] {
        for (line, wanted) in [
            ("hostname", "in-a-sandbox"),
            ("cat /etc/hostname", "in-a-sandbox"),
            (
                "cat /etc/resolv.conf",
                "search a.test b.test\nnameserver 10.1.2.3\nnameserver 10.4.5.6\noptions ndots:7",
            ),
            (
                "grep -c localhost /etc/hosts | grep -vx 0 > /dev/null && echo some",
                "some",
            ),
            ("cat /proc/sys/kernel/shm_rmid_forced", "1"),
            ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
            ("stat -c %a /dev/shm", "1777"),
        ] {
            same(line, says(container, line)?.as_str(), wanted)?;
        }
    }
    says(&one, "echo shared > /dev/shm/x")?;
    same(
        "shared memory",
        says(&two, "cat /dev/shm/x")?.as_str(),
        "shared",
    )?;
    // A file that the kubelet has made is the container's.
    let own = env.rig.directory().join("logs/own-hosts");
    fs::write(&own, "127.0.0.1 own\n")?;
    let mut spec = ContainerSpec::idle();
    spec.mounts = vec![(own, "/etc/hosts".to_owned())];
    let three = pod.start(&spec)?;
    same(
        "own hosts",
        says(&three, "cat /etc/hosts")?.as_str(),
        "127.0.0.1 own",
    )?;
    let mut spec = ContainerSpec::idle();
    spec.more = json!({ "linux": { "security_context": { "readonly_rootfs": true } } });
    let four = pod.start(&spec)?;
    let write = "(echo x > /etc/hostname) 2> /dev/null || echo refused";
    same("a read-only root", says(&four, write)?.as_str(), "refused")?;
    pod.stop()?;
    pod.remove()?;
    ensure!(
        !bundle(&env.rig, &pod.id).exists(),
        "the pod's directory is left"
    );
    Ok(())
}

/// The requests that CRI never makes, and those that may come again.
fn requests(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let container = pod.start(&ContainerSpec::shell(
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 3600",
    ))?;
    let api = api(env, &pod)?;
    api.ping()?;
    same(
        "platform",
        api.platform()?,
        ("linux".to_owned(), "amd64".to_owned()),
    )?;
    let status = api.status()?;
    same("state", status.state.as_str(), "SANDBOX_READY")?;
    let info: Value = serde_json::from_str(&status.info["info"])?;
    same("pid", info["pid"].as_u64(), Some(status.pid.into()))?;
    ensure!(status.created_at.seconds > 0, "it was never made");
    let (of, kind, length) = api.metrics()?;
    same("metrics of", of.as_str(), pod.id.as_str())?;
    ensure!(
        kind.starts_with("io.containerd.cgroups.v"),
        "metrics of type {kind}"
    );
    ensure!(length > 100, "metrics of {length} bytes");
    ensure!(api.start().is_err(), "it was started twice");
    for _ in 0..2 {
        api.stop()?;
        let (code, at) = api.wait()?;
        same("exit code", code, 0)?;
        ensure!(at >= status.created_at.seconds, "it ended before it began");
    }
    same("end", container.ended()?.0, 137)?;
    let status = api.status()?;
    same(
        "state",
        (status.state.as_str(), status.pid),
        ("SANDBOX_NOTREADY", 0),
    )?;
    ensure!(status.exited_at.seconds > 0, "it has ended at no time");
    for (what, outcome) in [("ping", api.ping()), ("metrics", api.metrics().map(drop))] {
        let why = outcome
            .err()
            .with_context(|| format!("{what} of what has ended"))?;
        ensure!(format!("{why:#}").contains("has ended"), "{what}: {why:#}");
    }
    let refused = pod
        .create(&ContainerSpec::idle())
        .and_then(|container| container.start());
    ensure!(refused.is_err(), "a container runs in what has ended");
    pod.stop()?;
    pod.remove()
}

/// A shim serves its own sandbox.
fn another_sandbox(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let other = SandboxApi::connect(&env.rig, &pod.id, "another")?;
    for (what, outcome) in [
        ("ping", other.ping()),
        ("status", other.status().map(drop)),
        ("stop", other.stop()),
        ("wait", other.wait().map(drop)),
        ("start", other.start().map(drop)),
        ("platform", other.platform().map(drop)),
        ("metrics", other.metrics().map(drop)),
    ] {
        let why = outcome
            .err()
            .with_context(|| format!("{what} of another's"))?;
        ensure!(
            format!("{why:#}").contains("there is no sandbox another"),
            "{what}: {why:#}"
        );
    }
    api(env, &pod)?.ping()
}

/// A pod on the node's network has the node's name, too.
fn host_network(env: &Env) -> Result<()> {
    let spec = PodSpec {
        host_network: true,
        ..PodSpec::default()
    };
    let pod = match run(env, spec) {
        Err(why) if env.handler.makes_machines() => {
            ensure!(format!("{why:#}").contains("hostNetwork"), "{why:#}");
            return Ok(());
        }
        pod => pod?,
    };
    let container = pod.start(&ContainerSpec::idle())?;
    let pid = u32::try_from(container.pid()?)?;
    let daemon = env.rig.daemon_pid()?.to_string();
    for (name, shared) in [("net", true), ("uts", true), ("ipc", false), ("pid", false)] {
        same(name, shares(pid, name, &daemon)?, shared)?;
    }
    same(
        "the file",
        says(&container, "cat /etc/hostname")?,
        says(&container, "hostname")?,
    )?;
    pod.stop()?;
    pod.remove()
}

/// The holder is the init of a pod whose containers see each other: it can't be looked into, and leaves no
/// zombies.
fn shared_processes(env: &Env) -> Result<()> {
    let pod = run(
        env,
        PodSpec {
            share_processes: true,
            ..PodSpec::default()
        },
    )?;
    let [one, two] = [
        pod.start(&ContainerSpec::idle())?,
        pod.start(&ContainerSpec::idle())?,
    ];
    same(
        "first process",
        says(&one, "cat /proc/1/comm")?.as_str(),
        "pause",
    )?;
    let pid = says(&two, "sh -c 'sleep 0.1 & echo $!'")?;
    command::until(
        "the orphan's end",
        patience(Duration::from_secs(10)),
        || Ok(says(&one, &format!("test -e /proc/{pid} || echo gone"))? == "gone"),
    )?;
    for line in [
        "cat /proc/1/environ",
        "readlink /proc/1/exe",
        "ls /proc/1/root/",
        "kill -9 1; cat /proc/1/root/pause",
    ] {
        let ended = one.exec(&["sh", "-c", line])?;
        ensure!(!ended.status.success(), "{line}: it could");
    }
    api(env, &pod)?.ping()?;
    let holder = holder(env, &pod)?;
    let environment = fs::read_to_string(format!("/proc/{holder}/environ"))?;
    same("environment", environment.as_str(), "HOME=/\0")?;
    pod.stop()?;
    pod.remove()
}

/// The pod's user namespace is the one that its network was made in.
fn user_namespace(env: &Env) -> Result<()> {
    let ids = json!([{ "host_id": 300_000, "container_id": 0, "length": 65_536 }]);
    let more = |network: u8| {
        json!({ "linux": { "security_context": { "namespace_options": {
            "network": network,
            "userns_options": { "mode": 0, "uids": ids, "gids": ids },
        } } } })
    };
    for network in [0, 2] {
        let pod = run(
            env,
            PodSpec {
                more: more(network),
                host_network: network == 2,
                ..PodSpec::default()
            },
        )?;
        let mut spec = ContainerSpec::idle();
        spec.more = more(network);
        let container = pod.start(&spec)?;
        let pid = u32::try_from(container.pid()?)?;
        let holder = holder(env, &pod)?.to_string();
        ensure!(
            shares(pid, "user", &holder)?,
            "the user namespace is not the pod's"
        );
        ensure!(
            !shares(pid, "user", "self")?,
            "the user namespace is the node's"
        );
        let map = says(&container, "tr -s ' ' < /proc/self/uid_map")?;
        same("mapping", map.trim(), "0 300000 65536")?;
        let look =
            "stat -c %u /etc/hostname /etc/resolv.conf; echo x > /dev/shm/x && cat /dev/shm/x";
        same("files", says(&container, look)?.as_str(), "0\n0\nx")?;
        pod.stop()?;
        pod.remove()?;
    }
    Ok(())
}

/// What a pod may not have is told by the request that asks for it.
fn annotation_refused(env: &Env) -> Result<()> {
    for (name, value, wanted) in [
        (
            "trefoil.dev/isolaton",
            "microvm",
            "unknown annotation trefoil.dev/isolaton; supported: ",
        ),
        (
            "trefoil.dev/isolation",
            "confidential",
            "the pod is to be confidential, but this ",
        ),
    ] {
        let spec = PodSpec {
            annotations: vec![(name.to_owned(), value.to_owned())],
            ..PodSpec::default()
        };
        match run(env, spec) {
            Ok(pod) => bail!("pod {} is served", pod.id),
            Err(why) => ensure!(format!("{why:#}").contains(wanted), "{why:#}"),
        }
    }
    Ok(())
}

/// An annotation raises a pod to a machine, though it comes when the server runs already.
fn annotation_raises(env: &Env) -> Result<()> {
    let spec = PodSpec {
        annotations: vec![("trefoil.dev/isolation".to_owned(), "microvm".to_owned())],
        ..described()
    };
    let pod = Pod::run(&env.rig, Handler::TrefoilSandbox, spec)?;
    let container = pod.start(&ContainerSpec::idle())?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let inside = says(&container, "uname -r")?;
    ensure!(
        inside != kernel.trim(),
        "it runs on the node's kernel {inside}"
    );
    let info: Value = serde_json::from_str(&api(env, &pod)?.status()?.info["info"])?;
    same("isolation", info["isolation"].as_str(), Some("microvm"))?;
    same("helpers", namespaces_helper(&pod)?, false)?;
    pod.stop()?;
    pod.remove()
}

/// Whether the shim has kept the helper of the runtime that it didn't choose.
fn namespaces_helper(pod: &Pod<'_>) -> Result<bool> {
    let names = pod
        .shim_side()?
        .into_iter()
        .map(|pid| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")));
    Ok(names.flatten().any(|name| name.trim() == "trefoil-helper"))
}
