//! Many machines on one node.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};

use crate::{Body, Env, patience, same};

pub const TRIALS: &[(&str, Body)] = &[("machines::twenty_at_once", twenty_at_once)];

const PODS: usize = 20;

/// How many are asked for in the same moment: all of them, but not where they would boot on a single
/// processor that has to be emulated.
fn in_a_moment() -> usize {
    if rig::node::inside() { 4 } else { PODS }
}

/// Twenty pods are up together, each with its own container and kernel, and go together.
fn twenty_at_once(env: &Env) -> Result<()> {
    let mut pods = Vec::new();
    let numbers: Vec<usize> = (0..PODS).collect();
    for some in numbers.chunks(in_a_moment()) {
        pods.extend(at_once(some, |number| start(env, *number))?);
    }
    let ready = env.rig.crictl(&["pods", "--state", "ready", "--quiet"])?;
    same("pods that are ready", ready.text()?.lines().count(), PODS)?;
    let mut kernels = Vec::new();
    for (number, (_, container)) in pods.iter().enumerate() {
        let said = container
            .exec(&["cat", "/number", "/proc/sys/kernel/random/boot_id"])?
            .text()?;
        let (own, kernel) = said.split_once('\n').context("two lines")?;
        same("its number", own, &number.to_string())?;
        kernels.push(kernel.to_owned());
    }
    kernels.sort_unstable();
    kernels.dedup();
    same("kernels", kernels.len(), PODS)?;
    for some in pods.chunks(in_a_moment()) {
        at_once(some, |(pod, _)| {
            pod.stop()?;
            pod.remove()
        })?;
    }
    Ok(())
}

/// A small pod with a container that holds its number.
fn start(env: &Env, number: usize) -> Result<(Pod<'_>, Container<'_>)> {
    let pod = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            memory: Some(64 << 20),
            ..PodSpec::default()
        },
    )?;
    let container = pod.start(&ContainerSpec::shell(&format!(
        "echo {number} > /number; echo up; trap 'exit 0' TERM; sleep 3600 & wait"
    )))?;
    command::until("a container", patience(Duration::from_secs(20)), || {
        Ok(container.logged("stdout")? == b"up\n")
    })?;
    Ok((pod, container))
}

/// Does something for each, all at the same time; the answers are in their order.
fn at_once<I: Sync, T: Send>(of: &[I], work: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let runs: Vec<_> = of
            .iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        runs.into_iter()
            .map(|run| {
                run.join()
                    .map_err(|_| anyhow!("a thread of the trial died"))?
            })
            .collect()
    })
}
