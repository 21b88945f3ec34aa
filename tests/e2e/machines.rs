//! What is a microVM pod's alone: how large it is, what it refuses, what goes through it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::Pid;
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::{command, ptrace};

use crate::e2e::streams::noise;
use crate::e2e::{Body, Env, dispatch, same};

/// What the names of these trials begin with.
pub const PART: &str = "machines::";

pub const TRIALS: &[(&str, Body)] = &[
    ("machines::of_64_mib", of_64_mib),
    ("machines::overhead_of_their_class", overhead_of_their_class),
    ("machines::volume_of_two", volume_of_two),
    ("machines::localhost_of_two", localhost_of_two),
    ("machines::shared_memory_of_two", shared_memory_of_two),
    ("machines::processes_in_its_cgroup", processes_in_its_cgroup),
    ("machines::much_each_way", much_each_way),
    ("machines::crash_loop", crash_loop),
    ("machines::host_namespaces", host_namespaces),
    ("machines::boot_that_fails", boot_that_fails),
    ("machines::forbidden_call", forbidden_call),
    ("machines::agent_that_fails", agent_that_fails),
    ("machines::agent_out_of_reach", agent_out_of_reach),
];

fn run(env: &Env, spec: PodSpec) -> Result<Pod<'_>> {
    Pod::run(&env.rig, env.handler, spec)
}

/// The smallest pod that people run. What it may use is there for it.
fn of_64_mib(env: &Env) -> Result<()> {
    let pod = run(
        env,
        PodSpec {
            memory: Some(64 << 20),
            ..PodSpec::default()
        },
    )?;
    let mut spec = ContainerSpec::shell(
        "sed -n 's/^MemTotal: *//p' /proc/meminfo; \
         head -c 41943040 /dev/zero > /dev/shm/file && wc -c < /dev/shm/file",
    );
    spec.memory = Some(64 << 20);
    let container = pod.start(&spec)?;
    same("end", container.ended()?.0, 0)?;
    let said = String::from_utf8(container.logged("stdout")?)?;
    let (total, used) = said.split_once('\n').context("two lines")?;
    let total: u64 = total.trim_end_matches(" kB").parse()?;
    ensure!(
        (64 * 1024..160 * 1024).contains(&total),
        "the machine has {total} kB"
    );
    same("used", used.trim(), "41943040")
}

/// A kubelet gives a pod's cgroup the pod's limits and the overhead of its class: a pod that uses what it may
/// gets by with that.
fn overhead_of_their_class(env: &Env) -> Result<()> {
    const LIMIT: u64 = 64 << 20;
    let pod = run(
        env,
        PodSpec {
            memory: Some(LIMIT.cast_signed()),
            ..PodSpec::default()
        },
    )?;
    let cgroup = memory_cgroup(env.rig.name())?;
    let set = |most: &str| fs::write(&cgroup, most).context("limiting the memory of all pods");
    set(&(LIMIT + overhead()?).to_string())?;
    let outcome = (|| {
        let mut spec = ContainerSpec::shell(
            "mkdir /d; i=0; while [ $i -lt 200 ]; do echo $i > /d/$i; i=$((i+1)); done; \
             cat /d/* | wc -l; head -c 52428800 /dev/zero > /dev/shm/file; wc -c < /dev/shm/file",
        );
        spec.memory = Some(LIMIT.cast_signed());
        let container = pod.start(&spec)?;
        // As a node's first trial it takes a minute where KVM is emulated.
        same(
            "end",
            container.ended_within(Duration::from_secs(180))?.0,
            0,
        )?;
        let said = String::from_utf8(container.logged("stdout")?)?;
        same("said", said.as_str(), "200\n52428800\n")?;
        pod.start(&ContainerSpec::idle()).map(drop)
    })();
    set("-1").or_else(|_| set("max"))?;
    outcome
}

/// Where the memory of all in a cgroup is limited.
fn memory_cgroup(name: &str) -> Result<PathBuf> {
    let files = ["memory.max", "memory.limit_in_bytes"];
    rig::cgroup::hierarchies()?
        .iter()
        .flat_map(|root| files.map(|file| root.join(name).join(file)))
        .find(|file| file.exists())
        .with_context(|| format!("{name} has no limit of memory"))
}

/// What `deploy/` says that a microVM pod uses beyond its limits, in bytes.
fn overhead() -> Result<u64> {
    let class = include_str!("../../deploy/runtimeclasses.yaml")
        .split("---\n")
        .find(|class| class.contains("\nhandler: trefoil-vm\n"))
        .context("there is no class trefoil-vm")?;
    let (_, rest) = class
        .split_once("memory: ")
        .context("the class has no overhead")?;
    let (mebibytes, _) = rest.split_once("Mi").context("the overhead has no unit")?;
    Ok(mebibytes.parse::<u64>()? << 20)
}

/// What one container writes into a volume the other sees, and their locks are one.
fn volume_of_two(env: &Env) -> Result<()> {
    let volume = env.rig.directory().join("logs/volume-of-two");
    fs::create_dir_all(&volume)?;
    let mut spec = ContainerSpec::idle();
    spec.mounts = vec![(volume.clone(), "/volume".into())];
    let pod = run(env, PodSpec::default())?;
    let (one, other) = (pod.start(&spec)?, pod.start(&spec)?);
    one.exec(&["sh", "-c", "echo from one > /volume/file"])?
        .success()?;
    same(
        "what the other reads",
        other.exec(&["cat", "/volume/file"])?.text()?,
        "from one".to_owned(),
    )?;
    other
        .exec(&["sh", "-c", "echo and more >> /volume/file"])?
        .success()?;
    same(
        "what the first reads",
        one.exec(&["cat", "/volume/file"])?.text()?,
        "from one\nand more".to_owned(),
    )?;
    same(
        "what the node reads",
        fs::read_to_string(volume.join("file"))?,
        "from one\nand more\n".to_owned(),
    )
}

fn localhost_of_two(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    pod.start(&ContainerSpec::of(rig::images::WEB))?;
    let other = pod.start(&ContainerSpec::idle())?;
    command::until("a web page", Duration::from_secs(60), || {
        let page = other.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1/"])?;
        Ok(String::from_utf8_lossy(&page.stdout).contains("Welcome"))
    })
}

fn shared_memory_of_two(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let spec = ContainerSpec::idle();
    let (one, other) = (pod.start(&spec)?, pod.start(&spec)?);
    one.exec(&["sh", "-c", "echo shared > /dev/shm/file"])?
        .success()?;
    same(
        "what the other reads",
        other.exec(&["cat", "/dev/shm/file"])?.text()?,
        "shared".to_owned(),
    )
}

/// Bytes go through the guest and come back as they were, however many.
fn much_each_way(env: &Env) -> Result<()> {
    const BLOCK: usize = 1 << 20;
    // Many times what all buffers in between hold.
    let blocks = if rig::test_vm::inside() { 64 } else { 256 };
    /// All are different.
    fn number(block: &mut [u8], index: u64) {
        block[..8].copy_from_slice(&index.to_le_bytes());
    }
    let mut ctr = env
        .rig
        .ctr_run(env.handler, &["--rm", rig::images::BASE, "one", "cat"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (input, output) = (ctr.stdin.take(), ctr.stdout.take());
    let feeder = std::thread::spawn(move || -> Result<()> {
        let mut input = input.context("no input")?;
        let mut block = noise(BLOCK);
        for index in 0..blocks {
            number(&mut block, index);
            input.write_all(&block)?;
        }
        Ok(())
    });
    let outcome = (|| {
        let mut output = output.context("no output")?;
        let (mut wanted, mut block) = (noise(BLOCK), vec![0; BLOCK]);
        for index in 0..blocks {
            output
                .read_exact(&mut block)
                .with_context(|| format!("after {index} MiB"))?;
            number(&mut wanted, index);
            ensure!(block == wanted, "MiB {index} is not as it was");
        }
        same("bytes after the last", output.read(&mut block)?, 0)
    })();
    if outcome.is_err() {
        ctr.kill()?;
    }
    let status = ctr.wait()?;
    let fed = feeder.join().map_err(|_| anyhow!("the feeder panicked"))?;
    outcome?;
    fed?;
    ensure!(status.success(), "ctr ended with {status}");
    Ok(())
}

/// A container that crashes is made again as long as its pod lives: what was read of each one's root doesn't
/// stay in the machine's memory.
fn crash_loop(env: &Env) -> Result<()> {
    const TIMES: u64 = 5;
    let pod = run(env, PodSpec::default())?;
    let stays = pod.start(&ContainerSpec::idle())?;
    let crash = || -> Result<()> {
        let container = pod.start(&ContainerSpec::shell("cat /bin/* > /dev/null; exit 3"))?;
        same("end", container.ended()?.0, 3)?;
        env.rig.crictl(&["rm", &container.id])?.success()?;
        Ok(())
    };
    // In kB; what the kernel could free is in it, too.
    let used = || -> Result<u64> {
        let line = "awk '/^MemTotal/ { all = $2 } /^MemFree/ { print all - $2 }' /proc/meminfo";
        Ok(stays.exec(&["sh", "-c", line])?.text()?.parse()?)
    };
    // What the first ones need is there for all that follow.
    for _ in 0..2 {
        crash()?;
    }
    let before = used()?;
    for _ in 0..TIMES {
        crash()?;
    }
    let each = used()?.saturating_sub(before) / TIMES;
    ensure!(
        each < 1024,
        "each time {each} kB of the machine's memory are gone"
    );
    Ok(())
}

/// All that a pod uses on the node counts as the pod's.
fn processes_in_its_cgroup(env: &Env) -> Result<()> {
    let pod = run(env, PodSpec::default())?;
    let shim = *pod.shim_side()?.first().context("no shim was found")?;
    for (name, pid) in [
        ("the shim", shim),
        ("the VMM", process_of(&pod.id, "trefoil-vmm")?),
        ("the file server", process_of(&pod.id, "trefoil-files")?),
    ] {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        ensure!(
            cgroups.lines().any(|line| line.ends_with(&pod.id)),
            "{name} is in {cgroups}"
        );
    }
    // None of them is in the way of its removal.
    pod.stop()?;
    pod.remove()
}

/// A machine has none of the node's namespaces, and a pod that asks for one is told so.
fn host_namespaces(env: &Env) -> Result<()> {
    for (name, spec) in [
        (
            "hostPID",
            PodSpec {
                host_processes: true,
                ..PodSpec::default()
            },
        ),
        (
            "hostNetwork",
            PodSpec {
                host_network: true,
                ..PodSpec::default()
            },
        ),
    ] {
        let said = refused(env, spec)?;
        ensure!(
            said.contains(&format!("a microVM pod can't have {name}")),
            "{name}: {said}"
        );
    }
    Ok(())
}

fn refused(env: &Env, spec: PodSpec) -> Result<String> {
    match run(env, spec) {
        Ok(pod) => bail!("pod {} runs", pod.id),
        Err(why) => Ok(format!("{why:#}")),
    }
}

/// A guest that does not come up says why in the pod's event, in the words of its kernel.
fn boot_that_fails(env: &Env) -> Result<()> {
    let broken = env.rig.directory().join("no-image");
    fs::write(&broken, "this is no initramfs")?;
    let content = format!("[microvm]\nimage = '{}'\n", broken.display());
    dispatch::with_drop_in(env, &content, 0o644, || {
        let said = refused(env, PodSpec::default())?;
        ensure!(
            said.contains("its last lines: ") && said.contains("Kernel panic"),
            "{said}"
        );
        Ok(())
    })
}

/// A process of a pod's that makes a call its seccomp filter forbids is the pod's end, and the shim says
/// whose it was, and which.
fn forbidden_call(env: &Env) -> Result<()> {
    for (process, thread) in [
        ("trefoil-vmm", "VMM: events"),
        ("trefoil-files", "file server: serving"),
    ] {
        let pod = run(env, PodSpec::default())?;
        let container = pod.start(&ContainerSpec::idle())?;
        let main = i32::try_from(process_of(&pod.id, process)?)?;
        ptrace::make_call(Pid::from_raw(main), libc::SYS_openat2)?;
        same("exit code", container.ended()?.0, 137)?;
        let expected = format!(
            "pod {} has ended by itself: {thread} thread: call openat2 (437): its seccomp filter \
             forbids it",
            pod.id
        );
        command::until("the reason in the log", Duration::from_secs(20), || {
            Ok(fs::read_to_string(env.rig.log())?.contains(&expected))
        })?;
        env.rig.remove_all()?;
    }
    Ok(())
}

/// What makes containers is a file of the node's: one that is missing or no program is named.
fn agent_that_fails(env: &Env) -> Result<()> {
    let broken = env.rig.directory().join("no-agent");
    fs::write(&broken, "this is no program")?;
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755))?;
    for (agent, expected) in [
        (
            broken.as_path(),
            "starting the agent, /run/trefoil/share/agent, failed: Exec format error",
        ),
        (
            Path::new("/nowhere/agent"),
            "share agent with the guest: open /nowhere/agent to mount it: No such file or directory",
        ),
    ] {
        let content = format!("[microvm]\nagent = '{}'\n", agent.display());
        dispatch::with_drop_in(env, &content, 0o644, || {
            let said = refused(env, PodSpec::default())?;
            ensure!(said.contains(expected), "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The processes of this name that pods have, each with its pod.
pub fn processes(name: &str) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        if words.next() == Some(name.as_bytes()) {
            let number = entry.file_name().to_string_lossy().parse()?;
            let pod = words.next().context("a process of no pod")?;
            found.push((number, String::from_utf8_lossy(pod).into_owned()));
        }
    }
    Ok(found)
}

/// The process that a pod has of this name.
pub fn process_of(pod: &str, name: &str) -> Result<u32> {
    let process = processes(name)?.into_iter().find(|(_, of)| of == pod);
    let (number, _) = process.with_context(|| format!("pod {pod} has no process {name}"))?;
    Ok(number)
}

/// Nobody in a pod sees the guest's own processes, and so nobody can end them.
fn agent_out_of_reach(env: &Env) -> Result<()> {
    let pod = run(
        env,
        PodSpec {
            share_processes: true,
            ..PodSpec::default()
        },
    )?;
    let container = pod.start(&ContainerSpec::idle())?;
    let seen = container
        .exec(&["sh", "-c", "cat /proc/[0-9]*/comm; kill -9 1"])?
        .text()?;
    let agents: Vec<&str> = seen
        .lines()
        .filter(|name| *name == "init" || name.contains("trefoil"))
        .collect();
    ensure!(agents.is_empty(), "the pod sees {agents:?}");
    // It was to no avail: the pod lives.
    same(
        "echo",
        container.exec(&["echo", "on"])?.text()?,
        "on".to_owned(),
    )
}
