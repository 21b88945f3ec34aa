//! Starts and ends: at odd moments, of short-lived and of many processes, and while containerd is dead.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rig::cri::ContainerSpec;
use serde_json::Value;

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, shell};

/// containerd dies in it, so that the other side has to wait.
pub const RESTARTS: &str = "lifecycle::restarts";

pub const TRIALS: &[Scenario] = &[
    (RESTARTS, restarts),
    ("lifecycle::short_lived", short_lived),
    ("lifecycle::never_started", never_started),
    ("lifecycle::many_processes", many_processes),
    (
        "lifecycle::checkpoint_without_criu",
        checkpoint_without_criu,
    ),
];

/// containerd dies while containers run, are being stopped, end by themselves, and are executed in.
///
/// containerd/containerd#12600, containerd/containerd#6771, containerd/containerd#6860,
/// containerd/containerd#8285
fn restarts(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pod = side.pod(Value::Null)?;
    let start = |line: &str| pod.start(&ContainerSpec::shell(line));
    let counts = start("i=0; while :; do i=$((i+1)); echo line $i.; sleep 0.1; done")?;
    let stopped = start("trap 'sleep 0.5; exit 7' TERM; while :; do sleep 0.1; done")?;
    let ends = start("sleep 1; exit 9")?;
    let runs = start("sleep 600")?;
    counts.logs("line 3.\n")?;
    let mut stop = side
        .rig
        .crictl_command(&["stop", "--timeout", "10", &stopped.id])?;
    let mut stop = stop.stderr(std::process::Stdio::null()).spawn()?;
    let line = "sleep 2; echo x > /dev/shm/after";
    let mut exec = runs.exec_command(&["-s"], &["sh", "-c", line])?;
    let mut exec = exec.stderr(std::process::Stdio::null()).spawn()?;
    thread::sleep(Duration::from_millis(300));
    side.rig.kill_daemon()?;
    stop.wait()?;
    exec.wait()?;
    thread::sleep(Duration::from_millis(1500));
    side.rig.start_daemon()?;
    seen.add(
        "it ends while it is stopped",
        &format!("exit {}", stopped.ended()?.0),
    );
    seen.add("it ends by itself", &format!("exit {}", ends.ended()?.0));
    let log = counts.logged("stdout")?.len();
    rig::command::until("more in the log", Duration::from_secs(10), || {
        Ok(counts.logged("stdout")?.len() > log)
    })?;
    let logged = counts.logged("stdout")?;
    let lines: Vec<String> = String::from_utf8_lossy(&logged)
        .lines()
        .map(str::to_owned)
        .collect();
    let whole = (1..=lines.len())
        .zip(&lines)
        .all(|(n, line)| *line == format!("line {n}."));
    seen.add("it prints", &format!("all lines are there: {whole}"));
    thread::sleep(Duration::from_millis(1500));
    seen.printed("an exec", &shell(&runs, "ls /dev/shm")?);
    Ok(())
}

/// Processes that end at once, and commands in a container that ends at that moment.
///
/// opencontainers/runc#5151, opencontainers/runc#4645
fn short_lived(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let mut well = 0;
    for _ in 0..12 {
        well += usize::from(side.run(&side.spec()?)?.well());
    }
    seen.add("containers", &format!("ran: {well}"));
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    let mut well = 0;
    for _ in 0..12 {
        well += usize::from(side.exec(&id, &[], &["true"])?.well());
    }
    side.remove(&id);
    seen.add("commands", &format!("ran: {well}"));
    // What comes of these is a matter of time; that something does is not.
    for _ in 0..3 {
        let id = side.started(&side.spec()?.args(&["sleep", "0.2"]))?;
        for _ in 0..4 {
            side.exec(&id, &[], &["true"])?;
        }
        side.remove(&id);
    }
    seen.add("commands at a container's end", "all ended");
    Ok(())
}

/// A container that is created and never started can be removed.
///
/// opencontainers/runc#4645
fn never_started(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pod = side.pod(Value::Null)?;
    let container = pod.create(&ContainerSpec::new(&["true"]))?;
    let code = side.rig.crictl(&["rm", &container.id])?.code();
    seen.add("removed", &format!("rm: {code}"));
    for _ in 0..4 {
        let ended = pod.start(&ContainerSpec::new(&["true"]))?.ended()?;
        seen.add("others in its pod", &format!("{ended:?}"));
    }
    Ok(())
}

/// A container that ends with many processes takes them with it.
///
/// checkpoint-restore/criu#1462
fn many_processes(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let line = "i=0; while [ $i -lt 1000 ]; do sleep 4711 & i=$((i+1)); done; echo started";
    seen.ended("started", &side.run(&side.spec()?.shell(line))?);
    let name = format!("{}/", side.rig.name());
    let mut left = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        left += usize::from(cgroups.contains(&format!("{name}{}", side.handler)));
    }
    seen.add("started", &format!("left: {left}"));
    Ok(())
}

/// A container goes on that can't be checkpointed.
///
/// checkpoint-restore/criu#535, checkpoint-restore/criu#2310, containerd/containerd#10365
fn checkpoint_without_criu(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    let to = side.at().join("image").to_string_lossy().into_owned();
    let asked = side
        .rig
        .ctr(&["tasks", "checkpoint", "--image-path", &to, &id])?;
    seen.add("of ctr", &format!("exit {}", asked.code()));
    seen.aside("of ctr", &asked.stderr());
    seen.ended("of ctr", &side.exec(&id, &[], &["echo", "goes on"])?);
    side.remove(&id);
    let pod = side.pod(Value::Null)?;
    let container = pod.start(&ContainerSpec::idle())?;
    let asked = side
        .rig
        .crictl(&["checkpoint", &format!("--export={to}.tar"), &container.id])?;
    seen.add("of a pod", &format!("exit {}", asked.code()));
    seen.printed("of a pod", &shell(&container, "echo goes on")?);
    Ok(())
}
