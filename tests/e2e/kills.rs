//! Each part of a microVM pod killed at each moment of its life: containerd learns of it at once, and
//! what is left can be removed.

use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec, shim_side};

use crate::e2e::chaos::shoot;
use crate::e2e::machines::{process_of, processes};
use crate::e2e::{Body, Env, patience, same};

/// What the names of these trials begin with.
pub const PART: &str = "kills::";

pub const TRIALS: &[(&str, Body)] = &[
    ("kills::of_shim", |env| at_each_moment(env, Victim::Shim)),
    ("kills::of_vmm", |env| at_each_moment(env, Victim::Vmm)),
    ("kills::of_file_server", |env| {
        at_each_moment(env, Victim::FileServer)
    }),
    ("kills::of_agent", |env| at_each_moment(env, Victim::Agent)),
    ("kills::of_containerd", |env| {
        at_each_moment(env, Victim::Containerd)
    }),
];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Shim,
    Vmm,
    FileServer,
    Agent,
    Containerd,
}

const VICTIMS: [Victim; 5] = [
    Victim::Shim,
    Victim::Vmm,
    Victim::FileServer,
    Victim::Agent,
    Victim::Containerd,
];

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Create,
    Start,
    Running,
    Exec,
    Stop,
}

const MOMENTS: [Moment; 5] = [
    Moment::Create,
    Moment::Start,
    Moment::Running,
    Moment::Exec,
    Moment::Stop,
];

/// How long containerd may take to know that a pod is dead; three times as long in a test VM, in which all
/// takes ten times as long.
fn allowed() -> Duration {
    Duration::from_secs(if rig::test_vm::inside() { 3 } else { 1 })
}

/// When somebody dies: at each moment. Where KVM is emulated, twenty-five pods take minutes, so there it is
/// three moments for each, another three for the next, unless these trials are asked for by name.
fn moments(env: &Env, victim: Victim) -> Vec<Moment> {
    let first = VICTIMS.iter().position(|other| *other == victim);
    let some = MOMENTS.iter().cycle().skip(first.unwrap_or_default());
    let count = match rig::test_vm::inside() && !env.by_name {
        true => 3,
        false => MOMENTS.len(),
    };
    some.copied().take(count).collect()
}

fn at_each_moment(env: &Env, victim: Victim) -> Result<()> {
    for moment in moments(env, victim) {
        let known = at(env, victim, moment)
            .and_then(|known| {
                if victim == Victim::Containerd {
                    env.rig.start_daemon()?;
                }
                // containerd refuses while it is still about the dead; kubelets ask again.
                let removed = || Ok(env.rig.remove_all().is_ok());
                command::until("the removal of the pod", Duration::from_secs(60), removed)?;
                Ok(known)
            })
            .with_context(|| format!("{victim:?} killed at {moment:?}"))?;
        if let Some(known) = known {
            ensure!(
                known <= allowed(),
                "{victim:?} killed at {moment:?}: known after {known:?}"
            );
        }
    }
    Ok(())
}

/// Kills somebody at a moment. Says, of a pod that was running, how long containerd took to know.
fn at(env: &Env, victim: Victim, moment: Moment) -> Result<Option<Duration>> {
    if moment == Moment::Create {
        return killed_in_create(env, victim).map(|()| None);
    }
    let pod = Pod::run(&env.rig, env.handler, small())?;
    let container = pod.create(&ContainerSpec::shell(
        "trap '' TERM; sleep 3600 & wait; wait",
    ))?;
    if moment == Moment::Start {
        let starting = background(env, &["start", &container.id])?;
        sleep(patience(Duration::from_millis(20)));
        shoot_part(env, victim, &pod.id)?;
        return ended(starting).map(|_| None);
    }
    container.start()?;
    let busy = match moment {
        Moment::Exec => Some(background(env, &["exec", &container.id, "sleep", "3600"])?),
        Moment::Stop => Some(background(
            env,
            &["stop", "--timeout", "30", &container.id],
        )?),
        _ => None,
    };
    if busy.is_some() {
        sleep(patience(Duration::from_millis(200)));
    }
    shoot_part(env, victim, &pod.id)?;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?;
    if victim == Victim::Agent {
        // It dies of its next instruction, and has none to run unless it is asked for something.
        ended(background(env, &["exec", &container.id, "true"])?)?;
    }
    if let Some(busy) = busy {
        let status = ended(busy)?;
        ensure!(
            moment != Moment::Exec || victim == Victim::Containerd || !status.success(),
            "the exec ended well"
        );
    }
    if victim == Victim::Containerd {
        return Ok(None);
    }
    // Of a shim that is dead itself containerd knows no more than that.
    let code = if victim == Victim::Shim { 255 } else { 137 };
    same("exit code", container.ended()?.0, code)?;
    let known = finished(&container)?;
    command::until("the pod's end", Duration::from_secs(20), || {
        Ok(pod.inspect()?["status"]["state"] == "SANDBOX_NOTREADY")
    })?;
    Ok(Some(known.saturating_sub(killed)))
}

/// Machines whose memory is looked through in no time.
fn small() -> PodSpec {
    PodSpec {
        memory: Some(64 << 20),
        ..PodSpec::default()
    }
}

/// Kills somebody as soon as it is there.
fn killed_in_create(env: &Env, victim: Victim) -> Result<()> {
    std::thread::scope(|scope| {
        let making = scope.spawn(|| -> Result<()> {
            Pod::run(&env.rig, env.handler, small())?.create(&ContainerSpec::idle())?;
            Ok(())
        });
        let begun = Instant::now();
        let mut outcome = Err(anyhow::anyhow!("there was nobody to kill"));
        while outcome.is_err() && begun.elapsed() < Duration::from_secs(120) {
            if let Some((_, pod)) = processes("trefoil-vmm")?.first() {
                outcome = shoot_part(env, victim, pod);
            }
            sleep(Duration::from_millis(5));
        }
        // That it failed is what is to be expected.
        drop(making.join());
        outcome
    })
}

fn shoot_part(env: &Env, victim: Victim, pod: &str) -> Result<()> {
    let pid = match victim {
        Victim::Containerd => return env.rig.kill_daemon(),
        Victim::Agent => {
            let program = env.agent.as_ref().context("no agent to kill")?;
            return rig::agent::kill(process_of(pod, "trefoil-vmm")?, program);
        }
        Victim::Shim => *shim_side(pod)?.first().context("no shim was found")?,
        Victim::Vmm => process_of(pod, "trefoil-vmm")?,
        Victim::FileServer => process_of(pod, "trefoil-files")?,
    };
    shoot(pid)
}

fn background(env: &Env, words: &[&str]) -> Result<Child> {
    Ok(env
        .rig
        .crictl_command(words)?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}

/// Waits for a client's end, whatever it comes to: nobody may wait for the dead.
fn ended(mut client: Child) -> Result<ExitStatus> {
    let mut status = None;
    let waited = command::until("the client's end", Duration::from_secs(60), || {
        status = client.try_wait()?;
        Ok(status.is_some())
    });
    if waited.is_err() {
        client.kill()?;
        client.wait()?;
    }
    waited?;
    status.context("the client has not ended")
}

/// When containerd was told of a container's end, since the epoch.
fn finished(container: &Container<'_>) -> Result<Duration> {
    let status = container.inspect()?;
    let time = status["status"]["finishedAt"].as_str();
    let time = time.context("it has not finished")?;
    let mut date = std::process::Command::new("date");
    let said = date.args(["+%s%3N", "--date", time]).output()?;
    Ok(Duration::from_millis(
        String::from_utf8(said.stdout)?.trim().parse()?,
    ))
}
