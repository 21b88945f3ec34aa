//! Pods and containers, as the kubelet makes them, through crictl.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command::{self, Finished};
use crate::images;
use crate::{Handler, Rig, cgroup};

/// Makes the names of pods and containers different.
static NUMBER: AtomicU32 = AtomicU32::new(1);

fn number() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// What a pod is to be like.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// All containers see each other's processes.
    pub share_processes: bool,
    /// The node's processes are seen.
    pub host_processes: bool,
    /// The node's network is used.
    pub host_network: bool,
    /// A port of the containers, and the node's port it is reached by.
    pub port: Option<(u16, u16)>,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
    /// The most memory that its containers may use together, in bytes: all of them have limits, and the
    /// pod has a cgroup of its own with a limit, as a kubelet makes it.
    pub memory: Option<i64>,
    /// What else its configuration holds, in CRI's words: laid over the rest.
    pub more: Value,
}

impl PodSpec {
    fn namespaces(&self) -> Value {
        // The numbers are CRI's: 0 the pod's, 1 the container's own, 2 the node's.
        let pid = match (self.host_processes, self.share_processes) {
            (true, _) => 2,
            (_, true) => 0,
            _ => 1,
        };
        json!({ "network": if self.host_network { 2 } else { 0 }, "pid": pid, "ipc": 0 })
    }
}

/// What a container is to be like.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// The image.
    pub image: String,
    /// The command and its arguments; none for the image's own.
    pub command: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// The user id.
    pub user: Option<i64>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a standard input to attach to.
    pub stdin: bool,
    /// The most memory it may use, in bytes.
    pub memory: Option<i64>,
    /// Directories of the node's, and where the container sees them.
    pub mounts: Vec<(PathBuf, String)>,
    /// What else its configuration holds, in CRI's words: laid over the rest.
    pub more: Value,
}

impl ContainerSpec {
    /// One that runs a command in the base image.
    pub fn new(command: &[&str]) -> Self {
        Self {
            image: images::BASE.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: Vec::new(),
            user: None,
            tty: false,
            stdin: false,
            memory: None,
            mounts: Vec::new(),
            more: Value::Null,
        }
    }

    /// One that runs a line of shell.
    pub fn shell(line: &str) -> Self {
        Self::new(&["sh", "-c", line])
    }

    /// One that does nothing for an hour, and ends at once when asked to.
    pub fn idle() -> Self {
        Self::shell("trap 'exit 0' TERM; sleep 3600 & wait")
    }

    /// One that runs an image's own command.
    pub fn of(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            ..Self::new(&[])
        }
    }
}

/// Lays a configuration over another: what is an object in both is merged, all else replaced.
fn lay_over(content: &mut Value, more: &Value) {
    match (content, more) {
        (_, Value::Null) => {}
        (Value::Object(content), Value::Object(more)) => {
            for (key, value) in more {
                lay_over(content.entry(key).or_insert(Value::Null), value);
            }
        }
        (content, more) => *content = more.clone(),
    }
}

/// What the cgroups of pods are called that have one of their own.
pub(crate) const POD: &str = "pod-";

/// What a pod's cgroup may use beyond its limits, in bytes. That there is a limit counts; whether a pod
/// gets by with the overhead of its class has a trial of its own.
const BEYOND: u64 = 1 << 30;

/// The cgroup that a pod's are below.
fn parent(rig: &Rig, name: &str, spec: &PodSpec) -> Result<String> {
    let Some(memory) = spec.memory else {
        // Of the rig's own, so that what is left in it is known to be ours.
        return Ok(format!("/{}", rig.name()));
    };
    let memory = u64::try_from(memory)?.saturating_add(BEYOND);
    cgroup::limited(rig.name(), name, memory)?;
    Ok(format!("/{}/{name}", rig.name()))
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod<'a> {
    rig: &'a Rig,
    /// Its id.
    pub id: String,
    spec: PodSpec,
    config: PathBuf,
    logs: PathBuf,
}

impl<'a> Pod<'a> {
    /// Runs a pod.
    pub fn run(rig: &'a Rig, handler: Handler, spec: PodSpec) -> Result<Self> {
        let name = format!("{POD}{}", number());
        let logs = rig.directory().join("logs").join(&name);
        let config = rig.directory().join("logs").join(format!("{name}.json"));
        let annotations: serde_json::Map<String, Value> = spec
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let ports: Vec<Value> = spec
            .port
            .iter()
            .map(|(container, host)| json!({ "container_port": container, "host_port": host }))
            .collect();
        let mut content = json!({
            "metadata": { "name": name, "namespace": "tests", "uid": name, "attempt": 1 },
            "log_directory": logs,
            "annotations": annotations,
            "port_mappings": ports,
            "linux": {
                "cgroup_parent": parent(rig, &name, &spec)?,
                "security_context": { "namespace_options": spec.namespaces() },
                "resources": { "memory_limit_in_bytes": spec.memory.unwrap_or(0) },
            },
        });
        lay_over(&mut content, &spec.more);
        fs::write(&config, serde_json::to_vec_pretty(&content)?)?;
        let id = rig
            .crictl(&[
                "runp",
                "--runtime",
                handler.name(),
                &config.to_string_lossy(),
            ])?
            .text()?;
        Ok(Self {
            rig,
            id,
            spec,
            config,
            logs,
        })
    }

    /// Creates a container in it.
    pub fn create(&self, spec: &ContainerSpec) -> Result<Container<'a>> {
        self.rig.pull(&spec.image)?;
        let name = format!("container-{}", number());
        let log = format!("{name}.log");
        let config = self
            .rig
            .directory()
            .join("logs")
            .join(format!("{name}.json"));
        let env: Vec<Value> = spec
            .env
            .iter()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect();
        let mounts: Vec<Value> = spec
            .mounts
            .iter()
            .map(|(host, inside)| json!({ "host_path": host, "container_path": inside }))
            .collect();
        let mut content = json!({
            "metadata": { "name": name, "attempt": 1 },
            "image": { "image": spec.image },
            "command": spec.command,
            "envs": env,
            "mounts": mounts,
            "log_path": log,
            "tty": spec.tty,
            "stdin": spec.stdin,
            "linux": { "security_context": { "namespace_options": self.spec.namespaces() }, "resources": {} },
        });
        if let Some(user) = spec.user {
            content["linux"]["security_context"]["run_as_user"] = json!({ "value": user });
        }
        if let Some(bytes) = spec.memory {
            content["linux"]["resources"]["memory_limit_in_bytes"] = json!(bytes);
        }
        lay_over(&mut content, &spec.more);
        fs::write(&config, serde_json::to_vec_pretty(&content)?)?;
        let id = self
            .rig
            .crictl(&[
                "create",
                &self.id,
                &config.to_string_lossy(),
                &self.config.to_string_lossy(),
            ])?
            .text()?;
        Ok(Container {
            rig: self.rig,
            id,
            log: self.logs.join(log),
        })
    }

    /// Creates a container in it and starts it.
    pub fn start(&self, spec: &ContainerSpec) -> Result<Container<'a>> {
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// What containerd says of it.
    pub fn inspect(&self) -> Result<Value> {
        Ok(serde_json::from_slice(
            &self.rig.crictl(&["inspectp", &self.id])?.success()?.stdout,
        )?)
    }

    /// Stops it.
    pub fn stop(&self) -> Result<()> {
        self.rig.crictl(&["stopp", &self.id])?.success()?;
        Ok(())
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        self.rig.crictl(&["rmp", &self.id])?.success()?;
        Ok(())
    }

    /// The process ids of the shim that serves it, and of the processes the shim started that
    /// are not the containers'.
    pub fn shim_side(&self) -> Result<Vec<u32>> {
        shim_side(&self.id)
    }
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'a> {
    rig: &'a Rig,
    /// Its id.
    pub id: String,
    /// Its log, as the kubelet reads it.
    pub log: PathBuf,
}

impl Container<'_> {
    /// Starts it.
    pub fn start(&self) -> Result<()> {
        self.rig.crictl(&["start", &self.id])?.success()?;
        Ok(())
    }

    /// Runs a command in it and collects what it prints (`ExecSync`).
    pub fn exec(&self, words: &[&str]) -> Result<Finished> {
        let mut arguments = vec!["exec", "--sync", &self.id];
        arguments.extend(words);
        self.rig.crictl(&arguments)
    }

    /// A command that runs something in it over a stream (`Exec`), with crictl's options.
    pub fn exec_command(&self, options: &[&str], words: &[&str]) -> Result<Command> {
        let mut arguments = vec!["exec"];
        arguments.extend(options);
        arguments.push(&self.id);
        arguments.extend(words);
        self.rig.crictl_command(&arguments)
    }

    /// What containerd says of it.
    pub fn inspect(&self) -> Result<Value> {
        Ok(serde_json::from_slice(
            &self.rig.crictl(&["inspect", &self.id])?.success()?.stdout,
        )?)
    }

    /// Its first process's id on the node.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.inspect()?["info"]["pid"]
            .as_i64()
            .context("no pid in its status")?;
        Ok(i32::try_from(pid)?)
    }

    /// Waits until it has ended: its exit code and the reason containerd gives.
    pub fn ended(&self) -> Result<(i64, String)> {
        self.ended_within(Duration::from_secs(60))
    }

    /// As [`Container::ended`], and fails if it takes longer.
    pub fn ended_within(&self, limit: Duration) -> Result<(i64, String)> {
        let mut answer = None;
        command::until("the container's end", limit, || {
            let status = &self.inspect()?["status"];
            if status["state"] == "CONTAINER_EXITED" {
                let code = status["exitCode"].as_i64().unwrap_or(0);
                answer = Some((code, status["reason"].as_str().unwrap_or("").to_owned()));
            }
            Ok(answer.is_some())
        })?;
        answer.context("it ended without a status")
    }

    /// What it has printed to one stream, put together again from the log's lines.
    pub fn logged(&self, stream: &str) -> Result<Vec<u8>> {
        let log = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let mut content = Vec::new();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            // time, stream, F for a full line or P for a part of one, content
            let mut fields = line.splitn(4, |byte| *byte == b' ');
            let (Some(_), Some(of), Some(kind), Some(text)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                bail!("not a line of a log: {:?}", String::from_utf8_lossy(line));
            };
            if of == stream.as_bytes() {
                let end = if kind == b"P" {
                    text.len().saturating_sub(1)
                } else {
                    text.len()
                };
                content.extend_from_slice(&text[..end]);
            }
        }
        Ok(content)
    }

    /// Waits until its log holds a text.
    pub fn logs(&self, text: &str) -> Result<()> {
        command::until(
            &format!("{text:?} in the log"),
            Duration::from_secs(20),
            || Ok(String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).contains(text)),
        )
    }
}

/// The processes of the shim that was started with an id: the shim and the children it has that
/// run its own program, not a container's.
pub fn shim_side(id: &str) -> Result<Vec<u32>> {
    let mut processes: Vec<(u32, u32, String)> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        processes.push((pid, parent.unwrap_or(0), line));
    }
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let mut found: Vec<u32> = processes
        .iter()
        .filter(|(_, _, line)| line.contains("containerd-shim-") && line.contains(id))
        .map(|(pid, ..)| *pid)
        .collect();
    let Some(shim) = found.first().copied() else {
        return Ok(found);
    };
    for (pid, parent, _) in &processes {
        if found.contains(parent) && !found.contains(pid) && program(*pid) == program(shim) {
            found.push(*pid);
        }
    }
    Ok(found)
}
