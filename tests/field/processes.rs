//! Processes: where they start, what they may call, and commands that are run beside them.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rig::cri::PodSpec;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

/// It changes what numbers the node gives.
pub const LARGE_NUMBERS: &str = "processes::large_numbers";

pub const TRIALS: &[Scenario] = &[
    (
        "processes::directory_is_a_descriptor",
        directory_is_a_descriptor,
    ),
    ("processes::missing_directory", missing_directory),
    ("processes::unknown_system_calls", unknown_system_calls),
    ("processes::shared_numbers", shared_numbers),
    (LARGE_NUMBERS, large_numbers),
    ("processes::exec", exec),
    (
        "processes::exec_whose_child_goes_on",
        exec_whose_child_goes_on,
    ),
    ("processes::few_descriptors", few_descriptors),
];

/// The working directory is a descriptor that a runtime has left open on the node.
///
/// CVE-2024-21626, GHSA-xr7r-f8xq-vfvv
fn directory_is_a_descriptor(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let numbers = 3..=10;
    let mut accepted = 0;
    for number in numbers.clone() {
        let cwd = format!("/proc/self/fd/{number}");
        let ended = side.run(&side.spec()?.set("/process/cwd", json!(cwd)).args(&["pwd"]))?;
        accepted += usize::from(ended.error.is_none());
    }
    seen.add("init", &format!("accepted: {accepted}"));
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    let mut accepted = 0;
    for number in numbers {
        let cwd = format!("/proc/self/fd/{number}");
        let ended = side.exec(&id, &["--cwd", &cwd], &["pwd"])?;
        accepted += usize::from(ended.out.starts_with('/'));
    }
    seen.add("exec", &format!("accepted: {accepted}"));
    side.remove(&id);
    Ok(())
}

/// A working directory that no layer holds is made.
///
/// kata-containers/kata-containers#13694, opencontainers/runc#1604, containers/crun#914
fn missing_directory(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let private = side.root_after("mkdir -m 700 mine; chown 1000:1000 mine")?;
    let table = r#"
init | /process/cwd = "/srv/app/none" | pwd; stat -c '%a %u:%g' . ..
of a user | /process/user = {"uid": 1000, "gid": 1000} ; /process/cwd = "/home/new" | pwd; stat -c '%a %u:%g' .
which only its user may enter | /process/user = {"uid": 1000, "gid": 1000} ; /process/cwd = "/mine" | pwd
"#;
    side.table_over(seen, table, |spec| spec.root(&private))?;
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    seen.ended("exec", &side.exec(&id, &["--cwd", "/nope"], &["pwd"])?);
    side.remove(&id);
    let pod = side.pod(Value::Null)?;
    let more = json!({ "working_dir": "/srv/none" });
    side.look_in_pod(&pod, "a pod's", seen, more, "readlink /proc/1/cwd")
}

const CALLS: &str = "
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        errno = 0;
        syscall(atol(words[i]), -1, 0, 0, 0, 0, 0);
        printf(\"%s: %s\\n\", words[i], strerror(errno));
    }
    return 0;
}
";

/// A call that is newer than the profile isn't there: libraries fall back from that alone.
///
/// opencontainers/runc#2151, moby/moby#42680
fn unknown_system_calls(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let program = rig::images::compile(side.at(), "calls", CALLS)?;
    let pod = side.pod(Value::Null)?;
    let more = json!({
        "mounts": [{ "container_path": "/calls", "host_path": program, "readonly": true }],
        "linux": { "security_context": { "seccomp": { "profile_type": 0 } } },
    });
    let line = "grep Seccomp: /proc/self/status; /calls 435 467 469 471 480 1000";
    side.look_in_pod(&pod, "exec", seen, more.clone(), line)?;
    let mut more = more;
    more["command"] = json!(["sh", "-c", format!("{line}; echo all; exec sleep 600")]);
    if let Some(container) = side.in_pod(&pod, "init", seen, more)? {
        container.logs("all")?;
        seen.add(
            "init",
            &String::from_utf8_lossy(&container.logged("stdout")?),
        );
    }
    Ok(())
}

/// In a pod whose containers share their processes, each starts, whatever number its first gets.
fn shared_numbers(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let spec = PodSpec {
        share_processes: true,
        ..PodSpec::default()
    };
    let pod = rig::cri::Pod::run(side.rig, side.handler, spec)?;
    let first = side
        .in_pod(&pod, "further ones", seen, Value::Null)?
        .context("the first")?;
    let mut started = 0;
    for _ in 0..6 {
        // Numbers that no process of the node has come along sooner so.
        first
            .exec(&["sh", "-c", "for i in 1 2 3 4 5 6 7; do true & done; wait"])?
            .success()?;
        let one = side.in_pod(&pod, "refusals", seen, Value::Null)?;
        started += usize::from(one.is_some());
    }
    seen.add("further ones", &format!("started: {started}"));
    Ok(())
}

/// Processes of the node's own namespace with the largest numbers that there are.
///
/// checkpoint-restore/criu#1462, lxc/lxd#10810
fn large_numbers(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    // It waits for its input to end, as it does however this process ends.
    let script = "before=$(cat pid_max); echo 4194304 > pid_max; echo 4190000 > ns_last_pid
        echo; cat; echo $before > pid_max";
    let mut restorer = Command::new("sh")
        .args(["-c", script])
        .current_dir("/proc/sys/kernel")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = restorer.stdout.as_mut().context("no output")?;
    said.read_exact(&mut [0])?;
    let outcome = with_large_numbers(side, seen);
    drop(restorer.stdin.take());
    ensure!(restorer.wait()?.success(), "the numbers stay large");
    outcome
}

fn with_large_numbers(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let look = "[ $$ -gt 4000000 ] && echo large";
    let spec = side.spec()?.without_namespace("pid");
    seen.ended("init", &side.run(&spec.clone().shell(look))?);
    let id = side.started(&spec.args(&["sleep", "600"]))?;
    seen.ended("exec", &side.exec(&id, &[], &["sh", "-c", look])?);
    let pid = side.pid(&id)?;
    ensure!(pid > 4_000_000, "its number is {pid} only");
    side.remove(&id);
    let of_the_node = json!({ "namespace_options": { "pid": 2 } });
    let more = json!({ "linux": { "security_context": of_the_node } });
    let pod = side.pod(more.clone())?;
    side.look_in_pod(&pod, "a pod's", seen, more, look)
}

/// Commands of any user, size and end, in a container that is paused, too.
///
/// containerd/containerd#2709, moby/moby#38865, containers/crun#644
fn exec(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let spec = side.spec()?.args(&["sleep", "600"]);
    let id = side.started(&spec.push("/process/env", json!("FROM=spec")))?;
    let line = |line: &'static str| vec!["sh", "-c", line];
    let word = "z".repeat(4000);
    let mut many = line("echo $#");
    many.resize(300, word.as_str());
    for (part, options, words) in [
        (
            "user",
            &["--user", "1000:5000"][..],
            line("id; echo $HOME $FROM"),
        ),
        ("unknown user", &["--user", "nosuch"], vec!["id"]),
        ("missing program", &[], vec!["nosuchprogram"]),
        (
            "relative program",
            &["--cwd", "/bin"],
            vec!["./basename", "/a/b"],
        ),
        ("a megabyte of arguments", &[], many),
        (
            "megabytes of output",
            &[],
            line("head -c 3000000 /dev/zero | md5sum"),
        ),
        ("exit codes", &[], line("exit 137")),
        ("exit codes", &[], line("kill -9 $$")),
        ("exit codes", &[], line("kill -15 $$")),
        ("exit codes", &[], line("exit 255")),
        ("orphans", &[], line("(sleep 0.2 &); echo")),
        (
            "orphans",
            &[],
            line("sleep 0.5; grep -l '^State:.Z' /proc/*/status"),
        ),
    ] {
        seen.ended(part, &side.exec(&id, options, &words)?);
    }
    let tasks = |what: &str| Ok::<_, anyhow::Error>(side.rig.ctr(&["tasks", what, &id])?.code());
    seen.add("paused", &format!("pause: {}", tasks("pause")?));
    seen.ended("paused", &side.exec(&id, &[], &["echo", "hi"])?);
    seen.add("paused", &format!("resume: {}", tasks("resume")?));
    side.remove(&id);
    Ok(())
}

/// A command's child keeps its output open: what it prints later is not lost.
///
/// containerd/containerd#2823
fn exec_whose_child_goes_on(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    let asked = Instant::now();
    let ended = side.exec(&id, &[], &["sh", "-c", "(sleep 3; echo late) & echo soon"])?;
    seen.ended("output", &ended);
    seen.add(
        "output",
        &format!("waited for: {}", asked.elapsed().as_secs() >= 3),
    );
    side.remove(&id);
    Ok(())
}

/// The container's limit of descriptors is not the runtime's.
///
/// opencontainers/runc#5021
fn few_descriptors(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let limit = |spec: crate::field::spec::Spec, most: u64| {
        let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": most, "hard": most }]);
        spec.set("/process/rlimits", limits)
    };
    let devices: Vec<Value> = (0..700)
        .map(|number| {
            let path = format!("/dev/many/d{number}");
            json!({ "path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 438 })
        })
        .collect();
    for most in [1024, 64, 8] {
        let spec = limit(side.spec()?, most).set("/linux/devices", json!(devices));
        // A shell needs more.
        let ended = side.run(&spec.args(&["ls", "/dev/many/d0", "/dev/many/d699"]))?;
        seen.ended(&format!("700 devices and {most}"), &ended);
    }
    let volume = side.directory("volume")?;
    let mut spec = limit(side.spec()?, 16);
    for number in 0..300 {
        spec = spec.bind(&volume, &format!("/m/{number}"), "rbind,ro");
    }
    let ended = side.run(&spec.shell("grep -c ' /m/' /proc/self/mounts; ulimit -n"))?;
    seen.ended("300 volumes and 16", &ended);
    match side.start(&limit(side.spec()?, 3).args(&["sleep", "600"]))? {
        Ok(id) => {
            seen.ended("exec and 3", &side.exec(&id, &[], &["echo", "in"])?);
            side.remove(&id);
        }
        Err(refused) => seen.ended("exec and 3", &refused),
    }
    let limits = "FSIZE=0 NPROC=1 AS=67108864 CPU=5 MEMLOCK=0 STACK=8388608";
    let mut spec = side.spec()?.user(1000);
    for (kind, most) in limits.split(' ').filter_map(|limit| limit.split_once('=')) {
        let most: u64 = most.parse()?;
        let limit = json!({ "type": format!("RLIMIT_{kind}"), "soft": most, "hard": most });
        spec = spec.push("/process/rlimits", limit);
    }
    seen.ended("other limits", &side.run(&spec.args(&["echo", "ran"]))?);
    Ok(())
}
