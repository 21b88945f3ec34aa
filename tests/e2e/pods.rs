//! What a kubelet does with pods.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::{Handler, command, images};

use crate::e2e::{Body, Env, patience, same};

pub const TRIALS: &[(&str, Body)] = &[
    ("pods::lifecycle", lifecycle),
    ("pods::exit_codes", exit_codes),
    ("pods::exit_by_signal", exit_by_signal),
    ("pods::stop_in_order", stop_in_order),
    ("pods::stop_by_force", stop_by_force),
    ("pods::start_of_nothing", start_of_nothing),
    ("pods::environment_and_arguments", environment_and_arguments),
    ("pods::user", user),
    ("pods::volume", volume),
    ("pods::shared_namespaces", shared_namespaces),
    ("pods::own_processes", own_processes),
    ("pods::shared_processes", shared_processes),
    ("pods::host_processes", host_processes),
    ("pods::host_network", host_network),
    ("pods::host_port", host_port),
    ("pods::port_forward", port_forward),
    ("pods::stats", stats),
    ("pods::update", update),
    ("pods::out_of_memory", out_of_memory),
    ("pods::container_again", container_again),
    ("pods::ten_containers", ten_containers),
    ("pods::eight_at_once", eight_at_once),
];

fn pod(env: &Env) -> Result<Pod<'_>> {
    Pod::run(&env.rig, env.handler, PodSpec::default())
}

/// Everything from run to remove, and what the lists say in between.
fn lifecycle(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.create(&ContainerSpec::idle())?;
    same(
        "state",
        container.inspect()?["status"]["state"].as_str(),
        Some("CONTAINER_CREATED"),
    )?;
    container.start()?;
    same(
        "state",
        container.inspect()?["status"]["state"].as_str(),
        Some("CONTAINER_RUNNING"),
    )?;
    let running = env.rig.crictl(&["ps", "--quiet", "--no-trunc"])?.text()?;
    same("crictl ps", running.as_str(), &container.id)?;
    let ready = env
        .rig
        .crictl(&["pods", "--state", "ready", "--quiet", "--no-trunc"])?
        .text()?;
    same("crictl pods", ready.as_str(), &pod.id)?;
    env.rig
        .crictl(&["stop", "--timeout", "20", &container.id])?
        .success()?;
    same("end", container.ended()?, (0, "Completed".to_owned()))?;
    env.rig.crictl(&["rm", &container.id])?.success()?;
    pod.stop()?;
    pod.remove()?;
    same(
        "crictl pods",
        env.rig.crictl(&["pods", "--quiet"])?.text()?,
        String::new(),
    )
}

fn exit_codes(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    for (code, reason) in [
        (0, "Completed"),
        (1, "Error"),
        (42, "Error"),
        (255, "Error"),
    ] {
        let container = pod.start(&ContainerSpec::shell(&format!("exit {code}")))?;
        same("end", container.ended()?, (code, reason.to_owned()))?;
    }
    Ok(())
}

fn exit_by_signal(env: &Env) -> Result<()> {
    // Where it is not the first process, all signals count.
    let shared = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            share_processes: true,
            ..PodSpec::default()
        },
    )?;
    for (signal, code) in [("TERM", 143), ("SEGV", 139), ("KILL", 137), ("ABRT", 134)] {
        let container = shared.start(&ContainerSpec::shell(&format!(
            "kill -{signal} $$; sleep 60"
        )))?;
        same(signal, container.ended()?.0, code)?;
    }
    let own = pod(env)?.start(&ContainerSpec::new(&["sleep", "3600"]))?;
    kill(ProcessId::from_raw(own.pid()?), Signal::SIGKILL)?;
    same("killed from outside", own.ended()?.0, 137)
}

/// A container that handles SIGTERM ends by itself, with its own exit code, and soon.
fn stop_in_order(env: &Env) -> Result<()> {
    let line = "trap 'echo going; exit 9' TERM; echo ready; sleep 3600 & wait";
    let container = pod(env)?.start(&ContainerSpec::shell(line))?;
    container.logs("ready")?;
    let asked = Instant::now();
    env.rig
        .crictl(&["stop", "--timeout", "30", &container.id])?
        .success()?;
    same("exit code", container.ended()?.0, 9)?;
    // Not at the end of its time, nor near it.
    ensure!(
        asked.elapsed() < Duration::from_secs(20),
        "it took {:?}",
        asked.elapsed()
    );
    same(
        "log",
        container.logged("stdout")?,
        b"ready\ngoing\n".to_vec(),
    )
}

/// One that does not is killed when its time is over.
fn stop_by_force(env: &Env) -> Result<()> {
    let container = pod(env)?.start(&ContainerSpec::shell(
        "trap '' TERM; echo ready; while true; do sleep 1; done",
    ))?;
    container.logs("ready")?;
    let asked = Instant::now();
    env.rig
        .crictl(&["stop", "--timeout", "2", &container.id])?
        .success()?;
    same("exit code", container.ended()?.0, 137)?;
    let took = asked.elapsed();
    ensure!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(10),
        "it took {took:?}"
    );
    Ok(())
}

/// A command that isn't there is an error that names it, and the container has failed.
fn start_of_nothing(env: &Env) -> Result<()> {
    let container = pod(env)?.create(&ContainerSpec::new(&["/no/such/program"]))?;
    let Err(error) = container.start() else {
        anyhow::bail!("it started")
    };
    let message = format!("{error:#}");
    ensure!(
        message.contains("/no/such/program"),
        "the error doesn't say what is missing: {message}"
    );
    let (code, reason) = container.ended()?;
    same("exit code", code, 128)?;
    same("reason", reason.as_str(), "StartError")
}

fn environment_and_arguments(env: &Env) -> Result<()> {
    let mut spec = ContainerSpec::new(&[
        "sh",
        "-c",
        "printf '%s|' \"$WORD\" \"$0\" \"$@\"; hostname",
        "zero",
        "a b",
        "*",
        "",
    ]);
    spec.env = vec![("WORD".into(), "two  words\tand 'quotes'".into())];
    let pod = pod(env)?;
    let container = pod.start(&spec)?;
    container.ended()?;
    let name = pod.inspect()?["status"]["metadata"]["name"]
        .as_str()
        .context("no name")?
        .to_owned();
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let printed = String::from_utf8(container.logged("stdout")?)?;
    // Without a host name of its own, a pod gets the node's.
    let wanted = format!("two  words\tand 'quotes'|zero|a b|*||{host}");
    same(&format!("what {name} printed"), printed, wanted)
}

fn user(env: &Env) -> Result<()> {
    let mut spec =
        ContainerSpec::shell("id -u; id -g; id -G; touch /forbidden || echo refused; sleep 3600");
    spec.user = Some(1000);
    let container = pod(env)?.start(&spec)?;
    container.logs("refused")?;
    // Its group, and the second one that the image's /etc/group gives it.
    same(
        "ids",
        String::from_utf8(container.logged("stdout")?)?,
        "1000\n1000\n1000 50000\nrefused\n".into(),
    )?;
    same(
        "exec's id",
        container.exec(&["id", "-u"])?.text()?,
        "1000".to_owned(),
    )
}

fn volume(env: &Env) -> Result<()> {
    let shared = env.rig.directory().join("logs/volume");
    fs::create_dir_all(&shared)?;
    fs::write(shared.join("in"), "from the node")?;
    let mut spec = ContainerSpec::shell("cat /volume/in; echo from the container > /volume/out");
    spec.mounts = vec![(shared.clone(), "/volume".into())];
    let container = pod(env)?.start(&spec)?;
    same("end", container.ended()?.0, 0)?;
    same(
        "read",
        container.logged("stdout")?,
        b"from the node".to_vec(),
    )?;
    same(
        "written",
        fs::read_to_string(shared.join("out"))?,
        "from the container\n".to_owned(),
    )
}

fn namespace_of(pid: i32, name: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))?
        .to_string_lossy()
        .into_owned())
}

fn shared_namespaces(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let one = pod.start(&ContainerSpec::idle())?.pid()?;
    let two = pod.start(&ContainerSpec::idle())?.pid()?;
    for (name, shared) in [
        ("net", true),
        ("ipc", true),
        ("uts", true),
        ("pid", false),
        ("mnt", false),
    ] {
        let same = namespace_of(one, name)? == namespace_of(two, name)?;
        ensure!(
            same == shared,
            "namespace {name}: shared is {same}, not {shared}"
        );
        let node = namespace_of(one, name)?
            == fs::read_link(format!("/proc/self/ns/{name}"))?.to_string_lossy();
        ensure!(!node, "namespace {name} is the node's");
    }
    Ok(())
}

fn own_processes(env: &Env) -> Result<()> {
    let container = pod(env)?.start(&ContainerSpec::new(&["sleep", "3600"]))?;
    same(
        "first process",
        container.exec(&["cat", "/proc/1/comm"])?.text()?,
        "sleep".to_owned(),
    )
}

fn shared_processes(env: &Env) -> Result<()> {
    let pod = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            share_processes: true,
            ..PodSpec::default()
        },
    )?;
    let one = pod.start(&ContainerSpec::new(&["sleep", "1111"]))?;
    let two = pod.start(&ContainerSpec::new(&["sleep", "2222"]))?;
    let seen = two.exec(&["pgrep", "-af", "sleep 1111"])?.text()?;
    ensure!(
        seen.contains("sleep 1111"),
        "the second container doesn't see the first's process: {seen:?}"
    );
    let first = one.exec(&["cat", "/proc/1/comm"])?.text()?;
    ensure!(first != "sleep", "the first process is a container's");
    Ok(())
}

fn host_processes(env: &Env) -> Result<()> {
    let pod = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            host_processes: true,
            ..PodSpec::default()
        },
    )?;
    let container = pod.start(&ContainerSpec::idle())?;
    same(
        "namespace",
        namespace_of(container.pid()?, "pid")?,
        namespace_of(std::process::id().try_into()?, "pid")?,
    )?;
    let daemon = env.rig.daemon_pid()?.to_string();
    same(
        "containerd",
        container
            .exec(&["cat", &format!("/proc/{daemon}/comm")])?
            .text()?,
        "containerd".to_owned(),
    )
}

fn host_network(env: &Env) -> Result<()> {
    let pod = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            host_network: true,
            ..PodSpec::default()
        },
    )?;
    let container = pod.start(&ContainerSpec::idle())?;
    let devices = container.exec(&["cat", "/proc/net/dev"])?.text()?;
    ensure!(
        devices.contains("node0:"),
        "the node's bridge isn't there:\n{devices}"
    );
    Ok(())
}

/// One request for the front page, in the rig's network.
fn front_page(env: &Env, address: &str) -> Result<()> {
    let mut last = String::new();
    command::until(
        &format!("a web page from {address}"),
        patience(Duration::from_secs(10)),
        || {
            let page = env.rig.namespaces().enter(|| {
                let mut connection = TcpStream::connect(address)?;
                connection.set_read_timeout(Some(Duration::from_secs(5)))?;
                connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut page = String::new();
                connection.read_to_string(&mut page)?;
                Ok(page)
            });
            last = page.unwrap_or_else(|error: anyhow::Error| format!("{error:#}"));
            Ok(last.contains("Welcome"))
        },
    )
    .with_context(|| format!("the last answer: {last}"))
}

fn address(pod: &Pod<'_>) -> Result<String> {
    let inspected = pod.inspect()?;
    let address = inspected["status"]["network"]["ip"].as_str();
    Ok(address.context("no address")?.to_owned())
}

fn host_port(env: &Env) -> Result<()> {
    let pod = Pod::run(
        &env.rig,
        env.handler,
        PodSpec {
            port: Some((80, 8080)),
            ..PodSpec::default()
        },
    )?;
    pod.start(&ContainerSpec::of(images::WEB))?;
    front_page(env, &format!("{}:80", address(&pod)?))?;
    front_page(env, "127.0.0.1:8080")
}

fn port_forward(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    pod.start(&ContainerSpec::of(images::WEB))?;
    // A client that finds nobody listening gives up for good.
    front_page(env, &format!("{}:80", address(&pod)?))?;
    let mut forward = env
        .rig
        .crictl_command(&["port-forward", &pod.id, "18080:80"])?
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let outcome = front_page(env, "127.0.0.1:18080");
    forward.kill()?;
    forward.wait()?;
    outcome
}

fn stats(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let container = pod.start(&ContainerSpec::shell(
        "head -c 8388608 /dev/urandom > /tmp/file; while true; do :; done",
    ))?;
    let read = |arguments: &[&str]| -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(
            &env.rig.crictl(arguments)?.success()?.stdout,
        )?)
    };
    command::until("statistics", patience(Duration::from_secs(15)), || {
        let all = read(&["stats", "--output", "json", "--id", &container.id])?;
        let all = &all["stats"][0];
        same(
            "whose statistics",
            all["attributes"]["id"].as_str(),
            Some(container.id.as_str()),
        )?;
        let number = |value: &serde_json::Value| {
            value["value"]
                .as_str()
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(number(&all["cpu"]["usageCoreNanoSeconds"]) > 50_000_000
            && number(&all["memory"]["workingSetBytes"]) > 0
            && number(&all["writableLayer"]["usedBytes"]) >= 8 << 20)
    })?;
    let of_pod = read(&["statsp", "--output", "json", "--id", &pod.id])?;
    same(
        "crictl statsp",
        of_pod["stats"][0]["attributes"]["id"].as_str(),
        Some(pod.id.as_str()),
    )
}

fn update(env: &Env) -> Result<()> {
    let mut spec = ContainerSpec::idle();
    spec.memory = Some(64 << 20);
    let container = pod(env)?.start(&spec)?;
    // Where version 2 and version 1 of cgroups have it.
    let limit = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    same(
        "limit",
        container.exec(&["sh", "-c", limit])?.text()?,
        (64 << 20).to_string(),
    )?;
    env.rig
        .crictl(&["update", "--memory", &(96 << 20).to_string(), &container.id])?
        .success()?;
    same(
        "limit",
        container.exec(&["sh", "-c", limit])?.text()?,
        (96 << 20).to_string(),
    )
}

fn out_of_memory(env: &Env) -> Result<()> {
    // Tail keeps what it may have to print; of an endless line that is as much as asked for.
    let mut spec = ContainerSpec::new(&["tail", "-c", "268435456", "/dev/zero"]);
    spec.memory = Some(32 << 20);
    let container = pod(env)?.start(&spec)?;
    same("end", container.ended()?, (137, "OOMKilled".to_owned()))
}

/// A container that ended is replaced by another in the same pod, as restarts are.
fn container_again(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    for round in 0..3 {
        let container = pod.start(&ContainerSpec::shell(&format!("echo round {round}")))?;
        same("end", container.ended()?.0, 0)?;
        same(
            "log",
            container.logged("stdout")?,
            format!("round {round}\n").into_bytes(),
        )?;
        env.rig.crictl(&["rm", &container.id])?.success()?;
    }
    Ok(())
}

fn ten_containers(env: &Env) -> Result<()> {
    let pod = pod(env)?;
    let mut containers = Vec::new();
    for _ in 0..10 {
        containers.push(pod.start(&ContainerSpec::idle())?);
    }
    for container in &containers {
        same(
            "exec",
            container.exec(&["echo", "here"])?.text()?,
            "here".to_owned(),
        )?;
    }
    ensure!(!pod.shim_side()?.is_empty(), "no shim was found");
    pod.stop()?;
    for container in &containers {
        // Containers that go with their pod are given no time.
        same("end", container.ended()?.0, 137)?;
    }
    pod.remove()
}

fn eight_at_once(env: &Env) -> Result<()> {
    // Eight machines that boot at once on one emulated processor take minutes.
    let count = match env.handler.usual() {
        Handler::TrefoilVm if rig::test_vm::inside() && !env.by_name => 4,
        _ => 8,
    };
    thread::scope(|scope| {
        let runs: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || -> Result<()> {
                    let pod = pod(env)?;
                    let container = pod.start(&ContainerSpec::shell(&format!(
                        "echo {index}; exit {index}"
                    )))?;
                    same("exit code", container.ended()?.0, index)?;
                    same(
                        "log",
                        container.logged("stdout")?,
                        format!("{index}\n").into_bytes(),
                    )?;
                    pod.stop()?;
                    pod.remove()
                })
            })
            .collect();
        for run in runs {
            run.join()
                .map_err(|_| anyhow::anyhow!("a thread of the trial died"))??;
        }
        Ok(())
    })
}
