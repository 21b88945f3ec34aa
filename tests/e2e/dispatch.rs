//! Which isolation a pod gets, and how one that can't have what it asks for is told. These are of our
//! handlers, whichever the other trials are of.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::command;
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::images::BASE;
use rig::{Handler, Rig};

use crate::e2e::{Body, Env, same};

/// What the names of these trials begin with.
pub const PART: &str = "dispatch::";

/// The one that makes a machine.
pub const RAISES: &str = "dispatch::annotation_raises";

pub const TRIALS: &[(&str, Body)] = &[
    ("dispatch::annotation_lowers", annotation_lowers),
    ("dispatch::annotation_unknown", annotation_unknown),
    ("dispatch::annotation_repeats", annotation_repeats),
    (RAISES, annotation_raises),
    ("dispatch::annotation_not_allowed", annotation_not_allowed),
    ("dispatch::confidential_is_lacking", confidential_is_lacking),
    ("dispatch::of_a_later_container", of_a_later_container),
    ("dispatch::handlers_share_no_pod", handlers_share_no_pod),
    ("dispatch::configuration", configuration),
    ("dispatch::configuration_of_others", configuration_of_others),
];

const ISOLATION: &str = "trefoil.dev/isolation";
const MEMORY: &str = "trefoil.dev/default-memory-mib";

fn annotated(name: &str, value: &str) -> PodSpec {
    PodSpec {
        annotations: vec![(name.to_owned(), value.to_owned())],
        ..PodSpec::default()
    }
}

/// What the client of a pod that is refused gets to see: the sentence of ours in its one line.
fn refused(rig: &Rig, handler: Handler, spec: PodSpec) -> Result<String> {
    let said = match Pod::run(rig, handler, spec) {
        Ok(pod) => bail!("{handler} serves pod {}", pod.id),
        Err(error) => format!("{error:#}"),
    };
    // crictl says it twice; this is its last word, and has in one line what containerd answered.
    let sentence = said
        .lines()
        .find(|line| line.contains("level=fatal"))
        .and_then(|line| line.split_once("start failed: trefoil: "))
        .and_then(|(_, ours)| ours.strip_suffix(": exit status 1\""));
    sentence
        .map(str::to_owned)
        .with_context(|| format!("no sentence of ours in: {said}"))
}

fn expect(said: &str, wanted: &str) -> Result<()> {
    ensure!(said.contains(wanted), "not {wanted:?} but {said:?}");
    Ok(())
}

fn annotation_lowers(env: &Env) -> Result<()> {
    for (handler, floor, asked) in [
        (Handler::TrefoilVm, "microvm", "namespace"),
        (Handler::TrefoilConfidential, "confidential", "namespace"),
        (Handler::TrefoilConfidential, "confidential", "microvm"),
    ] {
        let said = refused(&env.rig, handler, annotated(ISOLATION, asked))?;
        expect(
            &said,
            &format!(
                "the annotation {ISOLATION} asks for {asked}, but the pod's handler guarantees {floor}: \
                 an annotation may only raise it"
            ),
        )?;
    }
    Ok(())
}

fn annotation_unknown(env: &Env) -> Result<()> {
    for handler in [Handler::Trefoil, Handler::TrefoilVm] {
        for value in ["", "gvisor", "MicroVM"] {
            let said = refused(&env.rig, handler, annotated(ISOLATION, value))?;
            // crictl escapes quotes once more.
            expect(&said, "it must be namespace, microvm or confidential")?;
            expect(&said, value)?;
        }
        let said = refused(&env.rig, handler, annotated("trefoil.dev/turbo", "on"))?;
        expect(&said, "unknown annotation trefoil.dev/turbo; supported: ")?;
    }
    // Those of others are no business of ours.
    Pod::run(
        &env.rig,
        Handler::Trefoil,
        annotated("example.com/isolation", "none"),
    )?;
    Ok(())
}

/// What the handler guarantees anyway may be asked for, and containers of such a pod come and go.
fn annotation_repeats(env: &Env) -> Result<()> {
    let pod = Pod::run(
        &env.rig,
        Handler::Trefoil,
        annotated(ISOLATION, "namespace"),
    )?;
    let container = pod.start(&ContainerSpec::shell("exit 7"))?;
    same("exit code", container.ended()?.0, 7)
}

/// A pod of the weakest handler that asks for more gets it, and so do all its containers.
fn annotation_raises(env: &Env) -> Result<()> {
    let own = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut spec = annotated(ISOLATION, "microvm");
    let memory =
        "[annotations]\nallowed = ['trefoil.dev/isolation', 'trefoil.dev/default-memory-mib']\n";
    with_drop_in(env, memory, 0o644, || {
        spec.annotations.push((MEMORY.to_owned(), "200".to_owned()));
        let pod = Pod::run(&env.rig, Handler::Trefoil, spec)?;
        for _ in 0..2 {
            let container = pod.start(&ContainerSpec::idle())?;
            let release = container.exec(&["uname", "-r"])?.text()?;
            ensure!(
                release != own.trim(),
                "it runs on the node's kernel, {release}"
            );
        }
        let container = pod.start(&ContainerSpec::idle())?;
        let total = container.exec(&["sed", "-n", "s/^MemTotal: *//p", "/proc/meminfo"])?;
        let total: u64 = total.text()?.trim_end_matches(" kB").parse()?;
        // With the guest's own on top, less what its kernel keeps.
        ensure!(
            (180 * 1024..=260 * 1024).contains(&total),
            "the machine has {total} kB"
        );
        Ok(())
    })
}

/// What the node's configuration doesn't list is refused, not ignored; and so is a value that is none.
fn annotation_not_allowed(env: &Env) -> Result<()> {
    let rig = &env.rig;
    let said = refused(rig, Handler::Trefoil, annotated(MEMORY, "200"))?;
    expect(
        &said,
        &format!("the annotation {MEMORY} is not allowed by this node"),
    )?;
    let allowed = "[annotations]\nallowed = ['trefoil.dev/default-memory-mib']\n";
    with_drop_in(env, allowed, 0o644, || {
        let said = refused(rig, Handler::Trefoil, annotated(MEMORY, "200M"))?;
        expect(&said, "; it must be a number")?;
        // One that there is nothing to size for says nothing.
        Pod::run(rig, Handler::Trefoil, annotated(MEMORY, "200"))?;
        let said = refused(rig, Handler::Trefoil, annotated(ISOLATION, "namespace"))?;
        expect(
            &said,
            &format!("the annotation {ISOLATION} is not allowed by this node"),
        )
    })
}

fn confidential_is_lacking(env: &Env) -> Result<()> {
    // The node has no TEE, or this build can't launch under the one that it has.
    let lacking = "the pod is to be confidential, but this ";
    let said = refused(&env.rig, Handler::TrefoilConfidential, PodSpec::default())?;
    expect(&said, lacking)?;
    for handler in [Handler::Trefoil, Handler::TrefoilVm] {
        let said = refused(&env.rig, handler, annotated(ISOLATION, "confidential"))?;
        expect(&said, lacking)?;
    }
    Ok(())
}

/// `ctr run` of a container in the group `one`, to its end or in the background.
fn run(env: &Env, handler: Handler, id: &str, options: &[&str]) -> Result<command::Finished> {
    let mut words = vec!["--annotation", "io.containerd.runc.v2.group=one"];
    words.extend(options);
    words.extend([BASE, id, "sleep", "3600"]);
    command::run(
        &mut env.rig.ctr_run(handler, &words)?,
        &[],
        Duration::from_secs(60),
    )
}

/// A pod is what it began as: a container that joins it can't ask for anything else.
fn of_a_later_container(env: &Env) -> Result<()> {
    run(env, Handler::Trefoil, "one", &["--detach"])?.success()?;
    for asked in ["microvm", "confidential"] {
        let annotation = format!("{ISOLATION}={asked}");
        let later = run(env, Handler::Trefoil, "two", &["--annotation", &annotation])?;
        ensure!(
            !later.status.success(),
            "a container that is to be {asked} runs"
        );
        expect(
            &later.stderr(),
            &format!(
                "create container two: the container's annotation {ISOLATION} asks for {asked}, but its \
                 pod is namespace"
            ),
        )?;
        env.rig.ctr(&["containers", "rm", "two"])?.success()?;
    }
    let repeated = format!("{ISOLATION}=namespace");
    let options = ["--detach", "--annotation", &repeated];
    run(env, Handler::Trefoil, "two", &options)?.success()?;
    Ok(())
}

/// A container of a stronger handler isn't put where a weaker one's are, whatever group it names.
fn handlers_share_no_pod(env: &Env) -> Result<()> {
    run(env, Handler::Trefoil, "one", &["--detach"])?.success()?;
    let other = run(env, Handler::TrefoilConfidential, "two", &[])?;
    ensure!(!other.status.success(), "it runs");
    expect(&other.stderr(), "the pod is to be confidential")
}

/// Writes a drop-in for as long as `then` takes.
pub fn with_drop_in(
    env: &Env,
    content: &str,
    mode: u32,
    then: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let path = env.rig.drop_in("50-trial.toml");
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    let outcome = then();
    fs::remove_file(&path)?;
    outcome
}

/// A drop-in is in effect from the next pod on, and a wrong one is named with its line. Pods that run
/// don't mind.
fn configuration(env: &Env) -> Result<()> {
    let rig = &env.rig;
    let running = Pod::run(rig, Handler::Trefoil, PodSpec::default())?;
    with_drop_in(env, "[annotations]\nallowed = []\n", 0o644, || {
        let said = refused(rig, Handler::Trefoil, annotated(ISOLATION, "namespace"))?;
        expect(
            &said,
            "the annotation trefoil.dev/isolation is not allowed by this node",
        )?;
        Pod::run(rig, Handler::Trefoil, PodSpec::default())?;
        Ok(())
    })?;
    let lower = "# to lower it\n[isolation]\nfloor = 'namespace'\n";
    with_drop_in(env, lower, 0o644, || {
        for handler in [Handler::Trefoil, Handler::TrefoilConfidential] {
            let said = refused(rig, handler, PodSpec::default())?;
            expect(
                &said,
                "etc/trefoil/config.d/50-trial.toml:2: unknown table [isolation]; supported: annotations, microvm",
            )?;
        }
        let container = running.start(&ContainerSpec::shell("exit 3"))?;
        same("exit code", container.ended()?.0, 3)
    })
}

fn configuration_of_others(env: &Env) -> Result<()> {
    with_drop_in(env, "", 0o666, || {
        let said = refused(&env.rig, Handler::Trefoil, PodSpec::default())?;
        expect(&said, "50-trial.toml can be written by others than root")
    })
}
