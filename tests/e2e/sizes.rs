//! What a pod's containers may use together.

use anyhow::Result;
use rig::cri::{ContainerSpec, Pod, PodSpec};
use serde_json::json;

use crate::e2e::{Body, Env, same};

pub const TRIALS: &[(&str, Body)] =
    &[("sizes::unlimited_beside_limited", unlimited_beside_limited)];

/// CRI tells the sum of the limits that there are: that of a small sidecar says nothing of the container that
/// the pod is for, which has none.
fn unlimited_beside_limited(env: &Env) -> Result<()> {
    let small = json!({ "linux": { "resources": {
        "memory_limit_in_bytes": 64 << 20, "cpu_quota": 10_000, "cpu_period": 100_000,
    } } });
    let spec = PodSpec {
        more: small.clone(),
        ..PodSpec::default()
    };
    let pod = Pod::run(&env.rig, env.handler, spec)?;
    let mut sidecar = ContainerSpec::idle();
    sidecar.more = small;
    pod.start(&sidecar)?;
    // It fills a buffer of that size.
    let line = "dd if=/dev/zero of=/dev/null bs=134217728 count=1 && echo filled";
    let main = pod.start(&ContainerSpec::shell(line))?;
    same("end", main.ended()?, (0, "Completed".to_owned()))?;
    same("said", main.logged("stdout")?, b"filled\n".to_vec())
}
