//! Pods whose guest does what it can against them: an agent of ours (`rig/programs/hostile_agent.c`) that
//! runs nothing, and misbehaves as the pod's host name says.
//!
//! Whatever it does, the pod ends within seconds when it is asked to, and nothing else of the node suffers.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use rig::{command, images};
use serde_json::json;

use crate::e2e::machines::process_of;
use crate::e2e::{Body, Env, dispatch, patience, same};

/// What the names of these trials begin with.
pub const PART: &str = "hostile::";

pub const TRIALS: &[(&str, Body)] = &[("hostile::guest", guest)];

/// How its agent may be, and whether its container is stopped before the pod.
const MANNERS: [(&str, bool); 6] = [
    ("deaf", true),
    ("lying", false),
    ("flooding", true),
    ("twice", false),
    ("huge", false),
    ("truncating", true),
];

/// How long a pod may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// How many lines of containerd's log may be of these pods and no debugging.
const LINES: usize = 100;

/// Where containerd's metrics are, in the rig's network.
const METRICS: &str = "127.0.0.1/1338";

fn guest(env: &Env) -> Result<()> {
    let metrics = "[metrics]\naddress = '127.0.0.1:1338'\n";
    env.rig.reconfigure("metrics.toml", metrics)?;
    let directory = env.rig.directory().join("hostile");
    fs::create_dir_all(&directory)?;
    let source = include_str!("../rig/programs/hostile_agent.c");
    let agent = images::compile(&directory, "agent", source)?;
    let content = format!("[microvm]\nagent = '{}'\n", agent.display());
    let before = complaints(env)?;
    dispatch::with_drop_in(env, &content, 0o644, || {
        // Where a processor is emulated and nobody asks for the trial, some do.
        let step = if rig::test_vm::inside() && !env.by_name {
            2
        } else {
            1
        };
        for (manners, first) in MANNERS.into_iter().step_by(step) {
            one(env, manners, first).with_context(|| format!("a guest that is {manners}"))?;
        }
        Ok(())
    })?;
    let lines = complaints(env)? - before;
    ensure!(lines < LINES, "{lines} lines in containerd's log");
    Ok(())
}

fn one(env: &Env, manners: &str, container_first: bool) -> Result<()> {
    let spec = PodSpec {
        more: json!({ "hostname": manners }),
        ..PodSpec::default()
    };
    let pod = Pod::run(&env.rig, env.handler, spec)?;
    let container = pod.start(&ContainerSpec::idle())?;
    let vmm = process_of(&pod.id, "trefoil-vmm")?;
    same(
        "the number of its process",
        container.pid()?,
        i32::try_from(vmm)?,
    )?;
    // As the kubelet and Prometheus do all the time.
    drop(env.rig.crictl(&["stats", "--id", &container.id])?);
    metrics_are_served(env, &container)?;

    let begun = Instant::now();
    if container_first {
        env.rig
            .crictl(&["stop", "--timeout", "0", &container.id])?
            .success()?;
        let (code, _) = container.ended()?;
        same("exit code", code, 137)?;
    }
    pod.stop()?;
    env.rig.crictl(&["rmp", "--force", &pod.id])?.success()?;
    let took = begun.elapsed();
    println!("{manners}: ended after {} ms", took.as_millis());
    ensure!(took < patience(ENDING), "it took {took:?} to end");
    metrics_are_served(env, &container)?;
    ensure!(
        process_of(&pod.id, "trefoil-vmm").is_err(),
        "its machine is still there"
    );
    Ok(())
}

/// The metrics of the whole node.
fn metrics_are_served(env: &Env, container: &Container<'_>) -> Result<()> {
    let script = format!(
        "exec 3<>/dev/tcp/{METRICS}; printf 'GET /v1/metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let mut get = env.rig.command("bash")?;
    get.args(["-c", &script]);
    let answer = command::run(&mut get, &[], Duration::from_secs(60))?.text()?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(
        status.contains(" 200 "),
        "the metrics of the node: {status}, with container {}: {}",
        container.id,
        command::tail(&answer, 500)
    );
    Ok(())
}

/// How many lines containerd has written that are of these pods or worth a look.
fn complaints(env: &Env) -> Result<usize> {
    let log = fs::read(env.rig.log())?;
    let counts = |line: &&str| {
        let said = line.contains("level=info") && line.contains("trefoil-vm.v2 ");
        said || !line.contains("level=debug") && !line.contains("level=info")
    };
    Ok(String::from_utf8_lossy(&log).lines().filter(counts).count())
}
