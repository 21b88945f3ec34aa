//! What dies while containerd's Sandbox API makes, serves or ends a pod, and what is asked of it meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::command;
use rig::cri::{ContainerSpec, Pod, PodSpec, shim_side};
use rig::sandbox_api::{bundle, start_server};

use super::{api, described, holder, run, says};
use crate::e2e::chaos::shoot;
use crate::e2e::{Env, patience, same};

/// containerd's successor finds the pod and its containers, and makes more.
pub fn containerd_restarted(env: &Env) -> Result<()> {
    let pod = run(env, described())?;
    let container = pod.start(&ContainerSpec::idle())?;
    let before = holder(env, &pod)?;
    env.rig.kill_daemon()?;
    env.rig.start_daemon()?;
    same(
        "state",
        pod.inspect()?["status"]["state"].as_str(),
        Some("SANDBOX_READY"),
    )?;
    same("holder", holder(env, &pod)?, before)?;
    same(
        "exec",
        says(&container, "hostname")?.as_str(),
        "in-a-sandbox",
    )?;
    let another = pod.start(&ContainerSpec::shell("cat /etc/hostname; exit 12"))?;
    same("exit code", another.ended()?.0, 12)?;
    pod.stop()?;
    same(
        "state",
        pod.inspect()?["status"]["state"].as_str(),
        Some("SANDBOX_NOTREADY"),
    )?;
    pod.remove()
}

fn not_ready(pod: &Pod<'_>) -> Result<()> {
    command::until(
        "containerd's noticing",
        patience(Duration::from_secs(20)),
        || {
            // While containerd cleans up it has no answer.
            let state = pod.inspect().map(|pod| pod["status"]["state"].clone());
            Ok(state.is_ok_and(|state| state == "SANDBOX_NOTREADY"))
        },
    )
}

/// The shim dies: its containers and the holder go, and the pod can be removed.
pub fn shim_killed(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let container = pod.start(&ContainerSpec::idle())?;
    let holder = holder(env, &pod)?;
    let shim = shim_of(&pod)?;
    shoot(shim)?;
    not_ready(&pod)?;
    command::until(
        "the holder's end",
        patience(Duration::from_secs(20)),
        || Ok(!Path::new("/proc").join(holder.to_string()).exists()),
    )?;
    container.ended()?;
    pod.stop()?;
    pod.remove()
}

/// As [`shim_killed`], and nobody is there to notice.
pub fn shim_killed_while_containerd_is_down(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let container = pod.start(&ContainerSpec::idle())?;
    let shim = shim_of(&pod)?;
    env.rig.kill_daemon()?;
    shoot(shim)?;
    env.rig.start_daemon()?;
    not_ready(&pod)?;
    container.ended()?;
    pod.stop()?;
    pod.remove()
}

/// What holds the pod dies: the pod is not ready any more, and can be removed.
pub fn sandbox_killed(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    pod.start(&ContainerSpec::idle())?;
    let api = api(env, &pod)?;
    shoot(holder(env, &pod)?)?;
    not_ready(&pod)?;
    same("exit code", api.wait()?.0, 137)?;
    ensure!(api.ping().is_err(), "it answers");
    pod.stop()?;
    pod.remove()
}

fn shim_of(pod: &Pod<'_>) -> Result<u32> {
    let processes = pod.shim_side()?;
    processes.first().copied().context("no shim was found")
}

/// As [`shim_killed`], while a container takes its time to end: whoever stops the pod gets an answer.
/// Reported of another shim: docker/sbx-releases#135, where the request to stop never came back.
pub fn shim_killed_in_a_stop(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let container = pod.start(&ContainerSpec::shell("trap '' TERM; sleep 3600"))?;
    let shim = shim_of(&pod)?;
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| pod.stop());
        std::thread::sleep(Duration::from_secs(1));
        shoot(shim)?;
        let stopped = stopping.join();
        answered(stopped.map_err(|_| anyhow::anyhow!("it panicked"))?)
    })?;
    not_ready(&pod)?;
    container.ended()?;
    pod.stop()?;
    pod.remove()
}

/// Whether a request to stop had an answer: it may say that the shim has gone, but a time limit that has passed
/// says nothing.
fn answered(stopped: Result<()>) -> Result<()> {
    let Err(why) = stopped else { return Ok(()) };
    let said = format!("{why:#}");
    let late = ["deadline", "DeadlineExceeded", "still running after"];
    ensure!(
        !late.iter().any(|word| said.contains(word)),
        "the request to stop had no answer before its deadline: {said}"
    );
    Ok(())
}

/// containerd dies when it has had a server started, before it asks it for anything. Its successor finds where
/// the server listens, by its own note or by the server's (`address`), and has it end.
pub fn forgotten_server(env: &Env) -> Result<()> {
    for (id, noted) in [("forgotten-noted", true), ("forgotten", false)] {
        env.rig.kill_daemon()?;
        start_server(&env.rig, super::handler(env)?, id, noted)?;
        env.rig.start_daemon()?;
        let limit = patience(Duration::from_secs(20));
        command::until("the server's end", limit, || Ok(shim_side(id)?.is_empty()))?;
        command::until("the end of its directory", limit, || {
            Ok(!bundle(&env.rig, id).exists())
        })?;
    }
    Ok(())
}

/// A sandbox stops while a container is being made in it: the container is not left, at whatever moment.
pub fn stopped_while_a_container_is_made(env: &Env) -> Result<()> {
    for delay in (0..120).step_by(10) {
        let pod = run(env, PodSpec::default())?;
        let container = pod.create(&ContainerSpec::idle())?;
        let api = api(env, &pod)?;
        let started = std::thread::scope(|scope| {
            let starting = scope.spawn(|| container.start());
            std::thread::sleep(patience(Duration::from_millis(delay)));
            api.stop()?;
            starting.join().map_err(|_| anyhow::anyhow!("it panicked"))
        })?;
        match started {
            Ok(()) => same("end", container.ended()?.0, 137)?,
            Err(why) => println!("stopped after {delay} ms: {why:#}"),
        }
        ensure!(api.ping().is_err(), "it answers");
        pod.stop()?;
        pod.remove()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_has_passed_is_no_answer() {
        answered(Ok(())).expect("an answer");
        let refused = "stopp: rpc error: code = Unknown desc = ttrpc: closed";
        answered(Err(anyhow::anyhow!(refused))).expect("an answer");
        for late in [
            "stopp: rpc error: code = DeadlineExceeded desc = stopping the pod",
            "rpc error: code = Unknown desc = context deadline exceeded",
            "`crictl stopp p` was still running after 120s and was killed (process 1)",
        ] {
            let why = answered(Err(anyhow::anyhow!(late).context("stop"))).expect_err(late);
            assert!(why.to_string().contains("before its deadline"), "{why}");
        }
    }
}
