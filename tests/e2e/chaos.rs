//! Things that die when nobody expects it. Afterwards everything is managed, or nothing is left.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use rig::Handler;
use rig::command;
use rig::cri::{ContainerSpec, Pod, PodSpec};

use crate::e2e::machines::process_of;
use crate::e2e::{Body, Env, same};

/// The trial after which containerd itself may have left something.
pub const KILLS_CONTAINERD_MIDWAY: &str = "chaos::containerd_killed_in_a_start";

pub const TRIALS: &[(&str, Body)] = &[
    ("chaos::containerd_restarted", containerd_restarted),
    (
        "chaos::end_while_containerd_is_down",
        end_while_containerd_is_down,
    ),
    (KILLS_CONTAINERD_MIDWAY, containerd_killed_in_a_start),
    ("chaos::shim_killed", shim_killed),
    (
        "chaos::shim_killed_while_containerd_is_down",
        shim_killed_while_containerd_is_down,
    ),
    (
        "chaos::dead_pod_cleaned_by_many_at_once",
        dead_pod_cleaned_by_many_at_once,
    ),
    (
        "chaos::all_shim_processes_killed",
        all_shim_processes_killed,
    ),
    ("chaos::shim_killed_in_a_start", shim_killed_in_a_start),
    ("chaos::helper_killed", helper_killed),
    ("chaos::container_killed", container_killed),
    ("chaos::pause_killed", pause_killed),
];

pub fn shoot(pid: u32) -> Result<()> {
    Ok(kill(
        ProcessId::from_raw(i32::try_from(pid)?),
        Signal::SIGKILL,
    )?)
}

fn pod(env: &Env) -> Result<Pod<'_>> {
    Pod::run(&env.rig, env.handler, PodSpec::default())
}

/// containerd dies; its successor manages the containers that kept running.
fn containerd_restarted(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::shell(
        "trap 'exit 3' TERM; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done",
    ))?;
    container.logs("line 3\n")?;
    let pid = container.pid()?;
    env.rig.kill_daemon()?;
    env.rig.start_daemon()?;
    same("process", container.pid()?, pid)?;
    same(
        "exec",
        container.exec(&["echo", "still here"])?.text()?,
        "still here".to_owned(),
    )?;
    // What it prints after the restart is in the log as well.
    let seen = container.logged("stdout")?.len();
    command::until("more in the log", Duration::from_secs(10), || {
        Ok(container.logged("stdout")?.len() > seen + 30)
    })?;
    let other = pod.start(&ContainerSpec::shell("exit 12"))?;
    same("a new container's exit code", other.ended()?.0, 12)?;
    env.rig
        .crictl(&["stop", "--timeout", "20", &container.id])?
        .success()?;
    same("exit code", container.ended()?.0, 3)?;
    pod.stop()?;
    pod.remove()
}

/// A container's exit code is not lost because containerd was not there to hear it.
fn end_while_containerd_is_down(env: &Env) -> Result<()> {
    // By a volume: of what runs in a guest nothing else can be reached without containerd.
    let volume = env.rig.directory().join("logs/end-while-down");
    std::fs::create_dir_all(&volume)?;
    let mut spec = ContainerSpec::shell(
        "while [ ! -e /volume/go ]; do sleep 0.1; done; touch /volume/gone; exit 23",
    );
    spec.mounts = vec![(volume.clone(), "/volume".into())];
    let container = pod(env)?.start(&spec)?;
    env.rig.kill_daemon()?;
    std::fs::write(volume.join("go"), "")?;
    command::until("the container's end", Duration::from_secs(30), || {
        Ok(volume.join("gone").exists())
    })?;
    std::thread::sleep(Duration::from_secs(1));
    env.rig.start_daemon()?;
    same("exit code", container.ended()?.0, 23)
}

/// containerd dies while pods are being started: afterwards each can be removed.
fn containerd_killed_in_a_start(env: &Env) -> Result<()> {
    for delay in [30, 80, 150, 300] {
        std::thread::scope(|scope| -> Result<()> {
            let starting = scope.spawn(|| -> Result<()> {
                pod(env)?.start(&ContainerSpec::idle())?;
                Ok(())
            });
            std::thread::sleep(Duration::from_millis(delay));
            env.rig.kill_daemon()?;
            // That it failed is what is to be expected.
            drop(starting.join());
            env.rig.start_daemon()
        })?;
        env.rig.remove_all()?;
    }
    Ok(())
}

fn shim_of(pod: &Pod<'_>) -> Result<u32> {
    pod.shim_side()?
        .first()
        .copied()
        .context("no shim was found")
}

/// The shim dies: containerd notices, the container counts as ended, and removing works.
fn shim_killed(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::idle())?;
    // A guest's processes have no numbers here; its machine has one.
    let pid = match env.handler.usual() {
        Handler::TrefoilVm => process_of(&pod.id, "trefoil-vmm")?.try_into()?,
        _ => container.pid()?,
    };
    shoot(shim_of(&pod)?)?;
    command::until("containerd's noticing", Duration::from_secs(20), || {
        Ok(container.inspect()?["status"]["state"] == "CONTAINER_EXITED")
    })?;
    command::until(
        "the end of the container's process",
        Duration::from_secs(10),
        || Ok(kill(ProcessId::from_raw(pid), None).is_err()),
    )?;
    pod.stop()?;
    pod.remove()
}

fn shim_killed_while_containerd_is_down(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::idle())?;
    let shim = shim_of(&pod)?;
    env.rig.kill_daemon()?;
    shoot(shim)?;
    env.rig.start_daemon()?;
    command::until("containerd's noticing", Duration::from_secs(20), || {
        Ok(container.inspect()?["status"]["state"] == "CONTAINER_EXITED")
    })?;
    pod.stop()?;
    pod.remove()
}

/// A containerd that starts asks for a dead pod and for its containers at the same time: each cleaner
/// has to come through, whatever the others remove under its hands.
fn dead_pod_cleaned_by_many_at_once(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::idle())?;
    let shim = shim_of(&pod)?;
    env.rig.kill_daemon()?;
    shoot(shim)?;
    let mut cleaners = Vec::new();
    for id in [&pod.id, &container.id].repeat(4) {
        let cleaner = env
            .rig
            .cleaner(id)?
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        cleaners.push(cleaner);
    }
    for cleaner in cleaners {
        let ended = cleaner.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        anyhow::ensure!(ended.status.success(), "a cleaner failed: {said}");
    }
    env.rig.start_daemon()?;
    command::until("containerd's noticing", Duration::from_secs(20), || {
        Ok(container.inspect()?["status"]["state"] == "CONTAINER_EXITED")
    })?;
    pod.stop()?;
    pod.remove()
}

/// The shim dies at any moment of making, starting and entering a container: afterwards the pod can be
/// removed, and the trial's end finds nothing left.
fn shim_killed_in_a_start(env: &Env) -> Result<()> {
    // Fewer where each takes ten times as long, over all of that time.
    let (end, step) = if rig::test_vm::inside() {
        (1000, 200)
    } else {
        (100, 7)
    };
    for delay in (0..end).step_by(step) {
        let pod = pod(env)?;
        let shim = shim_of(&pod)?;
        std::thread::scope(|scope| -> Result<()> {
            let starting = scope.spawn(|| -> Result<()> {
                let container = pod.start(&ContainerSpec::idle())?;
                env.rig.crictl(&["exec", &container.id, "true"])?;
                Ok(())
            });
            std::thread::sleep(Duration::from_millis(20 + delay));
            shoot(shim)?;
            // Whether it failed depends on the moment.
            drop(starting.join());
            Ok(())
        })?;
        // containerd refuses while it is still about the dead shim's container; kubelets ask again.
        command::until("the pod's removal", Duration::from_secs(20), || {
            Ok(pod.stop().is_ok() && pod.remove().is_ok())
        })?;
    }
    // containerd has lost sight of some bundles by now, and cleans them up when it starts.
    env.rig.kill_daemon()?;
    env.rig.start_daemon()
}

/// The shim and all its helpers at once.
fn all_shim_processes_killed(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::idle())?;
    for pid in pod.shim_side()? {
        // One of them may end because another did.
        drop(shoot(pid));
    }
    command::until("containerd's noticing", Duration::from_secs(20), || {
        Ok(container.inspect()?["status"]["state"] == "CONTAINER_EXITED")
    })?;
    pod.stop()?;
    pod.remove()
}

/// A helper of the shim dies (the stock shim has none): the pod is still managed or can be
/// removed, and nothing is left.
fn helper_killed(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    pod.start(&ContainerSpec::idle())?;
    for helper in pod.shim_side()?.iter().skip(1) {
        shoot(*helper)?;
    }
    pod.stop()?;
    pod.remove()
}

fn container_killed(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::new(&["sleep", "3600"]))?;
    let bystander = pod.start(&ContainerSpec::idle())?;
    shoot(container.pid()?.try_into()?)?;
    same("exit code", container.ended()?.0, 137)?;
    same(
        "the other container",
        bystander.exec(&["echo", "fine"])?.text()?,
        "fine".to_owned(),
    )
}

/// What holds the pod dies: the pod is not ready any more, and can be removed.
fn pause_killed(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    pod.start(&ContainerSpec::idle())?;
    let pid = pod.inspect()?["info"]["pid"]
        .as_i64()
        .context("no pid in its status")?;
    ensure!(pid > 1, "the pod's pid is {pid}");
    shoot(u32::try_from(pid)?)?;
    command::until("containerd's noticing", Duration::from_secs(10), || {
        Ok(pod.inspect()?["status"]["state"] == "SANDBOX_NOTREADY")
    })?;
    pod.stop()?;
    pod.remove()
}
