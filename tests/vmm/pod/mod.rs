//! Containers in a guest: the agent, asked as the shim asks it.

pub mod host;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use trefoil_agent_protocol::FORWARD_PORT;
use trefoil_agent_protocol::service::{ResizeRequest, SetUpRequest, UpdateRequest};
use trefoil_core::ErrorKind;
use trefoil_core::stats::Stats;
use trefoil_vmm::exit::{Exit, Stop};

pub use host::configuration;
use host::{Ends, Plumbing, Pod, a_process, container, now, process, refused};

use rig::pod_guest::FATAL;

use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("pod::life", life),
    ("pod::setting_up", setting_up),
    ("pod::refusals", refusals),
    ("pod::streams", streams),
    ("pod::output_without_a_reader", output_without_a_reader),
    ("pod::exec", exec),
    ("pod::terminal", terminal),
    ("pod::limits", limits),
    ("pod::memory", memory),
    ("pod::two_share", two_share),
    ("pod::shared_processes", shared_processes),
    ("pod::forward", forward),
    ("pod::hang_up", hang_up),
    ("pod::killed_agent", killed_agent),
];

const KILLED: u32 = 128 + 9;

fn says(ends: &mut Ends, expected: &str) -> Result<()> {
    let said = ends.output()?;
    ensure!(said == expected, "it says {said:?} instead of {expected:?}");
    Ok(())
}

fn ended_with(code: u32, expected: u32) -> Result<()> {
    ensure!(
        code == expected,
        "it ended with {code} instead of {expected}"
    );
    Ok(())
}

fn life(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let script = "echo $$ $(hostname) $(cat /volume/greeting); exit 7";
    let config = configuration(script);
    let mut ends = pod.create("first", &config, Plumbing::Output)?;
    refused(
        pod.create("first", &config, Plumbing::Output),
        ErrorKind::AlreadyExists,
        "first",
    )?;
    refused(
        pod.delete("first"),
        ErrorKind::FailedPrecondition,
        "has not ended",
    )?;
    refused(pod.start("other"), ErrorKind::NotFound, "other")?;
    pod.start("first")?;
    let before = now();
    says(&mut ends, "1 pod hello\n")?;
    let ended = pod.wait("first", "")?;
    ended_with(ended.code, 7)?;
    let apart = ended.at.abs_diff(before);
    ensure!(apart < 10_000_000_000, "it ended {apart} ns from now");
    refused(pod.signal("first", "", 9), ErrorKind::NotFound, "finished")?;
    pod.delete("first")?;
    refused(
        pod.wait("first", ""),
        ErrorKind::NotFound,
        "no container first",
    )?;

    // Its name is free, and one that was never started can be got rid of.
    let _ends = pod.create("first", &config, Plumbing::Output)?;
    pod.signal("first", "", 9)?;
    ended_with(pod.finish("first")?, KILLED)?;
    let mut missing = config.clone();
    missing["process"]["args"] = json!(["/bin/missing"]);
    let failed = pod.create("first", &missing, Plumbing::Output);
    if failed.is_ok() {
        refused(pod.start("first"), ErrorKind::Internal, "missing")?;
        pod.wait("first", "")?;
        pod.delete("first")?;
    }
    // For a hundred of them there is room if nothing of each is left.
    for _ in 0..10 {
        let mut ends = pod.run("again", &configuration("echo x"), Plumbing::Output)?;
        says(&mut ends, "x\n")?;
        ended_with(pod.finish("again")?, 0)?;
    }
    pod.power_off()
}

fn setting_up(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot_only(setting)?;
    let config = configuration("true");
    refused(
        pod.create("c", &config, Plumbing::Output),
        ErrorKind::FailedPrecondition,
        "set up",
    )?;
    let hour = 3_600_000_000_000;
    let port = "net.ipv4.ip_unprivileged_port_start";
    pod.set_up(&SetUpRequest {
        hostname: "a-pod".into(),
        time: now() + hour,
        seed: vec![7; 32],
        sysctls: [(port.into(), "81".into())].into(),
        ..Default::default()
    })?;
    let again = pod.set_up(&SetUpRequest::default());
    refused(again, ErrorKind::FailedPrecondition, "before")?;
    pod.await_root()?;
    let script = format!(
        "hostname; cat /proc/sys/{}; cat /proc/uptime",
        port.replace('.', "/")
    );
    let mut ends = pod.run("c", &configuration(&script), Plumbing::Output)?;
    let said = ends.output()?;
    ensure!(said.starts_with("a-pod\n81\n"), "the guest says {said:?}");
    let ended = pod.wait("c", "")?.at;
    let late = ended.abs_diff(now() + hour);
    ensure!(
        late < 60_000_000_000,
        "the guest's clock is {late} ns from what it was set to"
    );
    pod.delete("c")?;
    pod.power_off()?;

    let mut pod = Pod::boot_only(setting)?;
    let bad = SetUpRequest {
        sysctls: [("kernel.core_pattern".into(), "|/x".into())].into(),
        time: now(),
        ..Default::default()
    };
    refused(
        pod.set_up(&bad),
        ErrorKind::InvalidArgument,
        "kernel.core_pattern",
    )?;
    pod.hang_up()
}

/// Each leaves nothing behind: the same name is used again and again.
fn refusals(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let changed = |pointer: &str, value: Value| -> Result<Value> {
        let mut config = configuration("true");
        *config.pointer_mut(pointer).context(pointer.to_owned())? = value;
        Ok(config)
    };
    let cases = [
        (
            "/mounts/7/source",
            json!("/etc"),
            ErrorKind::InvalidArgument,
            "mount at /volume",
        ),
        (
            "/mounts/7/source",
            json!("share:missing"),
            ErrorKind::Internal,
            "mount the volume missing: open /run/trefoil/share/missing to mount it: no such file or directory",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "network", "path": "/proc/1/ns/net"}),
            ErrorKind::InvalidArgument,
            "linux.namespaces",
        ),
        (
            "/linux/resources/memory/limit",
            json!(4096),
            ErrorKind::Internal,
            "create container c",
        ),
    ];
    for (pointer, value, kind, part) in cases {
        let config = changed(pointer, value)?;
        let outcome = pod.create("c", &config, Plumbing::Output);
        refused(outcome, kind, part).with_context(|| pointer.to_owned())?;
    }
    for bad in ["", "..", "a/b"] {
        let outcome = pod.create(bad, &configuration("true"), Plumbing::Output);
        refused(outcome, ErrorKind::InvalidArgument, "is no name")?;
    }
    let mut ends = pod.run("c", &configuration("echo sound"), Plumbing::Output)?;
    says(&mut ends, "sound\n")?;
    ended_with(pod.finish("c")?, 0)?;
    pod.hang_up()
}

fn streams(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let script = "cat; echo end >&2; echo again > /dev/stdout; echo over > /dev/stderr";
    let mut config = configuration(script);
    config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut ends = pod.run("c", &config, Plumbing::All)?;
    ends.input(b"to and fro\n")?;
    says(&mut ends, "to and fro\nagain\n")?;
    let mut errors = String::new();
    let stderr = ends.stderr.as_mut().context("no stderr")?;
    stderr.read_to_string(&mut errors)?;
    ensure!(errors == "end\nover\n", "its stderr says {errors:?}");
    ended_with(pod.finish("c")?, 0)?;

    // Much, there and back, while the one is slower than the other.
    let mut ends = pod.run("c", &configuration("cat"), Plumbing::All)?;
    let sent: Vec<u8> = (0..16_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut stdin = ends.stdin.take().context("no stdin")?;
    let got = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            stdin.write_all(&sent)?;
            stdin.shutdown(std::net::Shutdown::Write)
        });
        let mut got = Vec::new();
        ends.stdout.read_to_end(&mut got)?;
        match writer.join() {
            Ok(outcome) => outcome?,
            Err(_) => bail!("the writer died"),
        }
        Ok(got)
    })?;
    ensure!(got == sent, "{} bytes came back, and others", got.len());
    ended_with(pod.finish("c")?, 0)?;

    // The end of the input on request, though the stream is open still.
    let mut ends = pod.run("c", &configuration("cat; echo closed"), Plumbing::All)?;
    let request = a_process("c", "");
    pod.ask(async |agent, given| agent.close_stdin(given, &request).await)?;
    says(&mut ends, "closed\n")?;
    ended_with(pod.finish("c")?, 0)?;
    pod.power_off()
}

/// The writer stands still, and nothing of what it wrote is lost when it is read at last.
fn output_without_a_reader(setting: &Setting) -> Result<()> {
    const MIB: usize = 24;
    let mut pod = Pod::boot(setting)?;
    let script = format!("dd if=/dev/zero bs=1048576 count={MIB} 2>/dev/null");
    let mut slow = pod.run("slow", &configuration(&script), Plumbing::Output)?;
    let mut other = pod.run("other", &configuration("echo quick"), Plumbing::Output)?;
    says(&mut other, "quick\n")?;
    ended_with(pod.finish("other")?, 0)?;
    std::thread::sleep(Duration::from_secs(3));
    let request = container("slow");
    let pids = pod.ask(async |agent, given| agent.processes(given, &request).await)?;
    ensure!(!pids.pids.is_empty(), "it has ended, though nobody read");
    let mut got = Vec::new();
    slow.stdout.read_to_end(&mut got)?;
    ensure!(got.len() == MIB << 20, "{} bytes came", got.len());
    ended_with(pod.finish("slow")?, 0)?;
    pod.power_off()
}

fn exec(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let mut main = pod.run(
        "c",
        &configuration("sleep 1000; echo never"),
        Plumbing::Output,
    )?;
    for _ in 0..3 {
        let mut ends = pod.exec("c", "e", &process("cat; id -u; exit 3"), Plumbing::All)?;
        ends.input(b"in\n")?;
        says(&mut ends, "in\n0\n")?;
        ended_with(pod.wait("c", "e")?.code, 3)?;
        refused(pod.wait("c", "e"), ErrorKind::NotFound, "no process e")?;
    }
    let mut ends = pod.exec("c", "e", &process("sleep 1000"), Plumbing::Output)?;
    let twice = pod.exec("c", "e", &process("true"), Plumbing::Output);
    refused(twice, ErrorKind::AlreadyExists, "process e")?;
    pod.signal("c", "e", 15)?;
    ended_with(pod.wait("c", "e")?.code, 128 + 15)?;
    says(&mut ends, "")?;
    let mut missing = process("true");
    missing["args"] = json!(["/bin/missing"]);
    let outcome = pod.exec("c", "e", &missing, Plumbing::Output);
    ensure!(outcome.is_err(), "a program ran that isn't there");
    pod.signal("c", "*", 9)?;
    ended_with(pod.wait("c", "")?.code, KILLED)?;
    says(&mut main, "")?;
    let late = pod.exec("c", "e", &process("true"), Plumbing::Output);
    refused(late, ErrorKind::FailedPrecondition, "c")?;
    pod.delete("c")?;
    pod.power_off()
}

fn terminal(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let mut config = configuration("read line; stty size; echo $line");
    config["process"]["terminal"] = true.into();
    let mut ends = pod.run("c", &config, Plumbing::Terminal)?;
    let mut request = ResizeRequest {
        container: "c".into(),
        width: 77,
        height: 33,
        ..Default::default()
    };
    pod.ask(async |agent, given| agent.resize(given, &request).await)?;
    ends.stdin
        .as_mut()
        .context("no stdin")?
        .write_all(b"typed\n")?;
    says(&mut ends, "typed\r\n33 77\r\ntyped\r\n")?;
    ended_with(pod.finish("c")?, 0)?;

    pod.run("c", &configuration("sleep 1000"), Plumbing::Output)?;
    let script = process("read line; stty size");
    let mut ends = pod.exec("c", "e", &script, Plumbing::Terminal)?;
    request.process = "e".into();
    pod.ask(async |agent, given| agent.resize(given, &request).await)?;
    ends.stdin.as_mut().context("no stdin")?.write_all(b"\n")?;
    says(&mut ends, "\r\n33 77\r\n")?;
    ended_with(pod.wait("c", "e")?.code, 0)?;
    pod.power_off()
}

fn limits(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let files = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max";
    let script = "ulimit -n; ulimit -Hn; ulimit -u; cat /proc/self/oom_score_adj";
    let mut ends = pod.run("c", &configuration(script), Plumbing::Output)?;
    says(&mut ends, "1024\n524288\nunlimited\n0\n")?;
    ended_with(pod.finish("c")?, 0)?;
    let mut ends = pod.run(
        "c",
        &configuration(&format!("{files}; sleep 1000")),
        Plumbing::Output,
    )?;
    let mut said = [0; 26];
    ends.stdout.read_exact(&mut said)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        said == "67108864\n64\n100000 100000\n",
        "its limits are {said:?}"
    );

    let update = UpdateRequest {
        container: "c".into(),
        resources: br#"{"memory": {"limit": 33554432}, "pids": {"limit": 32}}"#.into(),
        ..Default::default()
    };
    pod.ask(async |agent, given| agent.update(given, &update).await)?;
    let mut ends = pod.exec("c", "e", &process(files), Plumbing::Output)?;
    says(&mut ends, "33554432\n32\n100000 100000\n")?;
    pod.wait("c", "e")?;

    let request = container("c");
    let answer = pod.ask(async |agent, given| agent.stats(given, &request).await)?;
    let stats: Stats = serde_json::from_slice(&answer.stats)?;
    let json = String::from_utf8_lossy(&answer.stats).into_owned();
    ensure!(
        matches!(stats, Stats::V2(_)) && json.contains("33554432"),
        "it uses {json}"
    );

    pod.ask(async |agent, given| agent.pause(given, &request).await)?;
    pod.signal("c", "", 15)?;
    pod.ask(async |agent, given| agent.resume(given, &request).await)?;
    let pids = pod.ask(async |agent, given| agent.processes(given, &request).await)?;
    ensure!(pids.pids.len() == 1, "its processes are {:?}", pids.pids);
    pod.signal("c", "", 9)?;
    ended_with(pod.finish("c")?, KILLED)?;
    pod.power_off()
}

fn memory(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let mut config = configuration("dd if=/dev/zero of=/dev/null bs=200000000 count=1");
    config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    config["process"]["args"] = json!([
        "/bin/dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200000000",
        "count=1"
    ]);
    let _ends = pod.run("c", &config, Plumbing::Output)?;
    let (killed, init) = (container("c"), a_process("c", ""));
    let (killed_twice, ended) = pod.ask(async |agent, given| {
        // The one that is given up takes nothing from the other.
        let told = async || agent.out_of_memory(given.clone(), &killed).await;
        let (one, other, ended) = tokio::join!(told(), told(), agent.wait(given.clone(), &init));
        Ok((one.and(other), ended?))
    })?;
    killed_twice.map_err(|why| anyhow::anyhow!("it was not told of: {why}"))?;
    ended_with(ended.code, KILLED)?;
    let request = container("c");
    let again = pod.ask(async |agent, given| agent.out_of_memory(given, &request).await);
    refused(again, ErrorKind::NotFound, "has ended")?;
    pod.delete("c")?;
    // The kernel's report is all that power_off finds wrong with a log.
    pod.hang_up()
}

/// Two containers of a pod: localhost, System V's and POSIX's shared memory, a volume.
fn two_share(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let script = "echo file > /volume/made; echo memory > /dev/shm/made; nc -l -p 8080 -e /bin/cat";
    let mut one = pod.run("one", &configuration(script), Plumbing::Output)?;
    let script = "until echo there | nc 127.0.0.1 8080 2>/dev/null; do sleep 0.1; done; \
                  cat /volume/made /dev/shm/made";
    let mut other = pod.run("other", &configuration(script), Plumbing::Output)?;
    says(&mut other, "there\nfile\nmemory\n")?;
    ended_with(pod.finish("other")?, 0)?;
    says(&mut one, "")?;
    ended_with(pod.finish("one")?, 0)?;
    pod.power_off()
}

/// Two containers in the pod's pid namespace: processes whose parents are gone, and signals to all.
fn shared_processes(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let shared = |script: &str| {
        let mut config = configuration(script);
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
        config
    };
    let mut other = pod.run("other", &shared("sleep 1000"), Plumbing::Output)?;
    let script = "for i in 1 2 3 4 5; do (sleep 0.2 & ); done; sleep 1; \
                  cat /proc/[0-9]*/stat 2>/dev/null; kill -9 -1; exit 7";
    let mut ends = pod.run("c", &shared(script), Plumbing::Output)?;
    let said = ends.output()?;
    let names: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(['(', ')']).nth(1))
        .collect();
    // The list is made before there is a process that reads it out.
    ensure!(
        said.starts_with("1 (pause) S") && names.len() == 3,
        "the pod's processes are {names:?}"
    );
    ended_with(pod.finish("c")?, 7)?;
    says(&mut other, "")?;
    ended_with(pod.finish("other")?, KILLED)?;
    let mut again = pod.run("c", &shared("echo $$"), Plumbing::Output)?;
    let number: u32 = again.output()?.trim().parse()?;
    ensure!(number > 1, "it is the first process of its namespace");
    ended_with(pod.finish("c")?, 0)?;
    pod.power_off()
}

fn forward(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let script = "nc -l -p 8080 -e /bin/cat";
    let _ends = pod.run("c", &configuration(script), Plumbing::Output)?;
    let dial = |pod: &Pod, port: u16| -> Result<_> {
        let mut stream = pod.wires.connect(FORWARD_PORT)?;
        stream.write_all(&port.to_le_bytes())?;
        let mut answer = [9];
        stream.read_exact(&mut answer)?;
        Ok((stream, answer[0]))
    };
    let (_, answer) = dial(&pod, 8081)?;
    ensure!(answer == 1, "a port that nobody listens on is {answer}");
    let began = Instant::now();
    let mut stream = loop {
        // Until it listens.
        ensure!(began.elapsed() < Duration::from_secs(60), "nobody listens");
        let (stream, answer) = dial(&pod, 8080)?;
        if answer == 0 {
            break std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(stream));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let sent = vec![b'x'; 1 << 20];
    let got = std::thread::scope(|scope| {
        let mut writing = stream.try_clone()?;
        let sent = &sent;
        scope.spawn(move || {
            writing.write_all(sent)?;
            writing.shutdown(std::net::Shutdown::Write)
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        anyhow::Ok(got)
    })?;
    ensure!(got == sent, "{} bytes came back", got.len());
    ended_with(pod.finish("c")?, 0)?;
    pod.power_off()
}

fn hang_up(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let _ends = pod.run("c", &configuration("sleep 1000"), Plumbing::Output)?;
    pod.hang_up()
}

/// What serves the host is gone, and so the guest: at once, and with a reason.
fn killed_agent(setting: &Setting) -> Result<()> {
    let mut pod = Pod::boot(setting)?;
    let script = format!("echo > /volume/{FATAL}; sleep 1000");
    let _ends = pod.create("c", &configuration(&script), Plumbing::Output)?;
    let outcome = pod.start("c").and_then(|()| pod.wait("c", "").map(drop));
    refused(outcome, ErrorKind::Unavailable, "does not answer")?;
    pod.machine
        .await_end()?
        .expect(|exit| *exit == Exit::Done(Stop::Reset))?;
    let said = pod.machine.last_lines();
    ensure!(
        said.contains("the agent has ended: Signaled"),
        "its last lines are: {said}"
    );
    Ok(())
}
