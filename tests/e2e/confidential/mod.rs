//! Confidential pods, under the simulated TEE: what is theirs alone.

mod layers;
mod policy;
mod scratch;
mod secrets;

use anyhow::{Result, ensure};
use rig::Handler;
use rig::author::Author;
use rig::confidential::{PERMISSIVE, Simulated};
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::kubelet::{Kubelet, Manifest};
use trefoil_initdata::annotation;

use crate::e2e::{Body, Env, disks, same};

/// What the names of these trials begin with.
pub const PART: &str = "confidential::";

pub const TRIALS: &[(&str, Body)] = &[
    ("confidential::of_two_containers", of_two_containers),
    ("confidential::refusals", refusals),
    ("confidential::without_knobs", policy::without_knobs),
    ("confidential::with_knobs", policy::with_knobs),
    ("confidential::another_container", policy::another_container),
    ("confidential::config_map", policy::config_map),
    ("confidential::layers_of_others", layers::of_others),
    ("confidential::sealed_secrets", secrets::sealed),
    ("confidential::broker_refuses", secrets::refused),
    ("confidential::broker_away", secrets::away),
    ("confidential::encrypted_scratch", scratch::encrypted),
    ("confidential::tampered_scratch", scratch::tampered),
];

/// The pod's annotation.
const INITDATA: &str = "trefoil.dev/initdata";

/// Lets the node have such pods, as long as it is there.
struct Configured<'a> {
    env: &'a Env,
    _tee: Simulated<'a>,
}

impl<'a> Configured<'a> {
    fn new(env: &'a Env) -> Result<Self> {
        disks::with_snapshotters(env, disks::Erofs::DisksOfPods)?;
        Ok(Self {
            env,
            _tee: Simulated::on(&env.rig)?,
        })
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        drop(disks::with_snapshotters(self.env, disks::Erofs::Disks));
    }
}

/// Has the author derive the manifest's policy, and runs the pod under it.
fn run<'a>(
    env: &'a Env,
    author: &Author<'_>,
    manifest: &Manifest,
    options: &[&str],
    cdh: Option<&str>,
) -> Result<Kubelet<'a>> {
    let annotation = author.annotation(&manifest.text(), options, cdh)?;
    let handler = Handler::TrefoilConfidential;
    Kubelet::run(&env.rig, handler, vec![annotation])
}

fn with(initdata: &str) -> Result<PodSpec> {
    Ok(PodSpec {
        annotations: vec![(INITDATA.to_owned(), annotation::encode(initdata)?)],
        ..PodSpec::default()
    })
}

/// What a pod says that could not be had, or a container of it: without the escapes that the log's format adds.
fn refusal<T>(outcome: Result<T>) -> String {
    let why = outcome.map(drop).err();
    let why = why.map(|why| format!("{why:#}")).unwrap_or_default();
    why.replace('\\', "")
}

/// That something could not be had, for this reason.
fn refused_for<T>(outcome: Result<T>, said: &str) -> Result<()> {
    let why = refusal(outcome);
    ensure!(why.contains(said), "not {said:?}, but {why:?}");
    Ok(())
}

/// Two containers of one image: one disk, roots of their own, and nothing of the node's.
fn of_two_containers(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let pod = Pod::run(&env.rig, Handler::TrefoilConfidential, with(PERMISSIVE)?)?;
    let one = pod.start(&ContainerSpec::idle())?;
    let other = pod.start(&ContainerSpec::idle())?;
    let run = |line: &str| one.exec(&["sh", "-c", line])?.success()?.text();

    let mounts = run("cat /proc/mounts")?;
    ensure!(
        !mounts.contains("virtiofs"),
        "the host shares files: {mounts}"
    );
    let disks = run("ls /sys/block | grep -c ^vd")?;
    same(
        "disks of two containers of one image, with what they write",
        disks.trim(),
        "2",
    )?;
    let line = run("cat /proc/cmdline")?;
    ensure!(
        line.contains("trefoil.tee=simulated"),
        "the kernel was told {line}"
    );
    // Devices are found by ACPI: what is measured is the same for each pod.
    ensure!(
        !line.contains("virtio_mmio"),
        "the kernel was told of devices: {line}"
    );
    let hosts = run("cat /etc/hosts")?;
    ensure!(hosts.contains("localhost"), "/etc/hosts is {hosts:?}");

    run("echo mine > /file")?;
    let others = other.exec(&["sh", "-c", "test ! -e /file && echo none"])?;
    same("another's file", others.text()?, "none".to_owned())?;
    env.rig.crictl(&["stop", "-t", "10", &one.id])?.success()?;
    env.rig.crictl(&["rm", &one.id])?.success()?;
    let again = pod.start(&ContainerSpec::shell(
        "test ! -e /file && echo new && test -x /bin/sh",
    ))?;
    same("end", again.ended()?.0, 0)?;
    pod.stop()?;
    pod.remove()
}

/// What is missing or can't be had is named, and nothing is left of the pod.
fn refusals(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let handler = Handler::TrefoilConfidential;
    let refused = |spec: PodSpec, said: &str| -> Result<()> {
        refused_for(Pod::run(&env.rig, handler, spec), said)
    };
    refused(
        PodSpec::default(),
        "needs initdata, by the annotation trefoil.dev/initdata",
    )?;
    refused(with("algorithm = 'sha256'")?, "SIMULATED")?;
    refused(
        with(&PERMISSIVE.replace("policy.json", "policy.rego"))?,
        "unknown key",
    )?;

    let pod = Pod::run(&env.rig, handler, with(PERMISSIVE)?)?;
    let mut with_path = ContainerSpec::idle();
    with_path.mounts = vec![("/etc".into(), "/host".to_owned())];
    refused_for(
        pod.start(&with_path),
        "the volume /etc can't be had: a confidential pod has no hostPath",
    )?;
    pod.stop()?;
    pod.remove()
}
