//! Many machines on one node.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};

use crate::e2e::{Body, Env, patience, same};

pub const TRIALS: &[(&str, Body)] = &[("machines::many_at_once", many_at_once)];

/// How many there are, and how many of them are asked for in the same moment: fewer where they boot on a
/// single processor that has to be emulated.
fn crowd(by_name: bool) -> (usize, usize) {
    match (rig::test_vm::inside(), by_name) {
        (true, true) => (8, 4),
        (true, false) => (4, 4),
        (false, _) => (20, 20),
    }
}

/// All pods are up together, each with its own container and kernel, and go together.
fn many_at_once(env: &Env) -> Result<()> {
    let (all, in_a_moment) = crowd(env.by_name);
    let mut pods = Vec::new();
    let numbers: Vec<usize> = (0..all).collect();
    for some in numbers.chunks(in_a_moment) {
        pods.extend(at_once(some, |number| start(env, *number))?);
    }
    let ready = env.rig.crictl(&["pods", "--state", "ready", "--quiet"])?;
    same("pods that are ready", ready.text()?.lines().count(), all)?;
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
    same("kernels", kernels.len(), all)?;
    for some in pods.chunks(in_a_moment) {
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
