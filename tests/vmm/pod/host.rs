//! The host's side of a pod's guest, as its tests need it: requests, and streams by their numbers.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rig::pod_guest::{ROOT, VOLUME};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use trefoil_agent_protocol::service::{
    AgentClient, ContainerRequest, CreateContainerRequest, ExecRequest, Nothing, ProcessEnded,
    ProcessRequest, Rootfs, SetUpRequest, SignalRequest, Streams,
};
use trefoil_agent_protocol::{Request, STREAM_PORT, status};
use trefoil_core::ErrorKind;
use trefoil_vmm::exit::{Exit, Stop};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context as Given, with_duration};

use crate::vmm::Setting;
use crate::vmm::agent::hear;
use crate::vmm::machine::wires::Wires;
use crate::vmm::machine::{Agent, Machine, Running, Vmm};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A guest that serves a pod.
pub struct Pod {
    pub machine: Running,
    pub wires: Wires,
    runtime: Runtime,
    client: AgentClient,
    /// Of the last stream.
    number: u32,
}

/// The host's ends of a process's streams.
pub struct Ends {
    pub stdin: Option<UnixStream>,
    pub stdout: UnixStream,
    pub stderr: Option<UnixStream>,
}

impl Ends {
    /// All that comes on stdout, until it ends.
    pub fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        let output = &mut self.stdout;
        output.read_to_string(&mut text).context("reading stdout")?;
        Ok(text)
    }

    /// Sends something and then no more.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("there is no stdin")?;
        stdin.write_all(bytes).context("writing stdin")?;
        Ok(stdin.shutdown(Shutdown::Write)?)
    }
}

/// Which streams a process is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plumbing {
    Output,
    All,
    Terminal,
}

/// That a request failed, in this way, and said so.
pub fn refused<T>(outcome: Result<T>, kind: ErrorKind, part: &str) -> Result<()> {
    let Err(why) = outcome else {
        bail!("the agent did what it should have refused ({part})");
    };
    let failure = why.downcast_ref::<trefoil_core::Error>();
    let failure = failure.with_context(|| format!("the agent failed otherwise: {why:#}"))?;
    ensure!(
        failure.kind() == kind && failure.to_string().contains(part),
        "the agent says {:?} ({failure}) instead of {kind:?} ({part})",
        failure.kind()
    );
    Ok(())
}

/// A process of a container's configuration, that runs a script.
pub fn process(script: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL", "CAP_CHOWN"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
        },
        "noNewPrivileges": true,
    })
}

/// A container's configuration, that runs a script.
pub fn configuration(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(script),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
            {"destination": "/volume", "type": "bind", "source": format!("share:{VOLUME}"),
             "options": ["rbind", "rw"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 64 << 20, "swap": 64 << 20},
                "cpu": {"shares": 512, "quota": 100_000, "period": 100_000},
                "pids": {"limit": 64},
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
            },
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

impl Pod {
    /// Boots a guest, and has it serve, but not set up.
    pub fn boot_only(setting: &Setting) -> Result<Self> {
        let mut machine = Machine::new(&setting.images);
        machine.images.image.clone_from(&setting.pod);
        machine.memory = 256;
        Self::of(&machine)
    }

    /// Boots this machine's guest, and has it serve, but not set up.
    pub fn of(machine: &Machine) -> Result<Self> {
        let Agent {
            stream,
            wires,
            machine,
        } = machine.boot_agent(Vmm::Trefoil)?;
        let (agent, _) = hear(stream)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = serve(agent, &runtime)?;
        Ok(Self {
            machine,
            wires,
            runtime,
            client,
            number: 0,
        })
    }

    /// Boots a guest and sets it up.
    pub fn boot(setting: &Setting) -> Result<Self> {
        let mut pod = Self::boot_only(setting)?;
        pod.set_up(&SetUpRequest {
            hostname: "pod".into(),
            time: now(),
            ..Default::default()
        })?;
        pod.await_root()?;
        Ok(pod)
    }

    /// Waits until there is a root for containers.
    pub fn await_root(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let log = self.log()?;
            if log.contains("planter: done") {
                return Ok(());
            }
            ensure!(
                !log.contains("planter: failed") && began.elapsed() < LIMIT,
                "the guest gets no root to make containers from:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn set_up(&mut self, request: &SetUpRequest) -> Result<()> {
        self.ask(async |agent, given| agent.set_up(given, request).await.map(drop))
    }

    /// Asks for something, and waits for the answer.
    pub fn ask<T>(
        &mut self,
        request: impl AsyncFnOnce(&AgentClient, Given) -> ttrpc::Result<T>,
    ) -> Result<T> {
        let given = with_duration(LIMIT);
        let outcome = self.runtime.block_on(request(&self.client, given));
        outcome.map_err(|why| anyhow!(status::from_answer(why)))
    }

    /// The kernel's log.
    pub fn log(&mut self) -> Result<String> {
        let nothing = Nothing::default();
        let answer = self.ask(async |agent, given| agent.kernel_log(given, &nothing).await)?;
        Ok(String::from_utf8_lossy(&answer.text).into_owned())
    }

    /// A new stream and its number.
    pub fn stream(&mut self) -> Result<(u32, UnixStream)> {
        self.number += 1;
        let mut stream = self.wires.connect(STREAM_PORT)?;
        stream.write_all(&self.number.to_le_bytes())?;
        Ok((self.number, UnixStream::from(OwnedFd::from(stream))))
    }

    fn streams(&mut self, plumbing: Plumbing) -> Result<(Streams, Ends)> {
        let (stdout, out) = self.stream()?;
        let mut streams = Streams {
            stdout,
            terminal: plumbing == Plumbing::Terminal,
            ..Default::default()
        };
        let mut ends = Ends {
            stdin: None,
            stdout: out,
            stderr: None,
        };
        if plumbing != Plumbing::Output {
            let (stdin, end) = self.stream()?;
            (streams.stdin, ends.stdin) = (stdin, Some(end));
        }
        if plumbing == Plumbing::All {
            let (stderr, end) = self.stream()?;
            (streams.stderr, ends.stderr) = (stderr, Some(end));
        }
        Ok((streams, ends))
    }

    /// Makes a container.
    pub fn create(&mut self, id: &str, configuration: &Value, plumbing: Plumbing) -> Result<Ends> {
        let (streams, ends) = self.streams(plumbing)?;
        let request = CreateContainerRequest {
            container: id.into(),
            configuration: configuration.to_string().into_bytes(),
            rootfs: Some(Rootfs {
                share: ROOT.into(),
                ..Default::default()
            })
            .into(),
            streams: Some(streams).into(),
            ..Default::default()
        };
        self.ask(async |agent, given| agent.create_container(given, &request).await)
            .with_context(|| format!("creating {id}"))?;
        Ok(ends)
    }

    pub fn start(&mut self, id: &str) -> Result<()> {
        let request = container(id);
        self.ask(async |agent, given| agent.start_container(given, &request).await)
            .map(drop)
            .with_context(|| format!("starting {id}"))
    }

    /// Makes and starts a container.
    pub fn run(&mut self, id: &str, configuration: &Value, plumbing: Plumbing) -> Result<Ends> {
        let ends = self.create(id, configuration, plumbing)?;
        self.start(id)?;
        Ok(ends)
    }

    /// Runs one more process.
    pub fn exec(
        &mut self,
        id: &str,
        name: &str,
        process: &Value,
        plumbing: Plumbing,
    ) -> Result<Ends> {
        let (streams, ends) = self.streams(plumbing)?;
        let mut process = process.clone();
        process["terminal"] = (plumbing == Plumbing::Terminal).into();
        let request = ExecRequest {
            container: id.into(),
            process: name.into(),
            configuration: process.to_string().into_bytes(),
            streams: Some(streams).into(),
            ..Default::default()
        };
        self.ask(async |agent, given| agent.exec(given, &request).await)
            .with_context(|| format!("running {name} in {id}"))?;
        Ok(ends)
    }

    pub fn wait(&mut self, id: &str, name: &str) -> Result<ProcessEnded> {
        let request = a_process(id, name);
        self.ask(async |agent, given| agent.wait(given, &request).await)
    }

    pub fn signal(&mut self, id: &str, name: &str, signal: i32) -> Result<()> {
        let request = SignalRequest {
            container: id.into(),
            process: name.into(),
            signal: signal.unsigned_abs(),
            all: name == "*",
            ..Default::default()
        };
        self.ask(async |agent, given| agent.signal(given, &request).await)
            .map(drop)
    }

    pub fn delete(&mut self, id: &str) -> Result<()> {
        let request = container(id);
        self.ask(async |agent, given| agent.delete_container(given, &request).await)
            .map(drop)
            .with_context(|| format!("deleting {id}"))
    }

    /// Waits for a container's end, and deletes it; its exit code.
    pub fn finish(&mut self, id: &str) -> Result<u32> {
        let ended = self.wait(id, "")?;
        self.delete(id)?;
        Ok(ended.code)
    }

    /// Has the guest end, and waits for it.
    pub fn power_off(mut self) -> Result<()> {
        let log = self.log()?;
        for bad in ["BUG:", "Call Trace", "trefoil-init:", "trefoil-agent:"] {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(bad)).collect();
            ensure!(lines.is_empty(), "the guest says:\n{}", lines.join("\n"));
        }
        let nothing = Nothing::default();
        let outcome = self.ask(async |agent, given| agent.power_off(given, &nothing).await);
        refused(outcome, ErrorKind::Unavailable, "does not answer")?;
        self.machine
            .await_end()?
            .expect(|exit| *exit == Exit::Done(Stop::PoweredOff))
    }

    /// Ends the connection, and waits for the guest's end.
    pub fn hang_up(self) -> Result<()> {
        let Self {
            mut machine,
            runtime,
            client,
            wires: _wires,
            ..
        } = self;
        drop((client, runtime));
        machine
            .await_end()?
            .expect(|exit| *exit == Exit::Done(Stop::PoweredOff))
    }
}

/// Asks for the service, and is its client.
fn serve(mut agent: BufReader<File>, runtime: &Runtime) -> Result<AgentClient> {
    writeln!(agent.get_mut(), "{}", Request::Serve).context("asking to be served")?;
    let _entered = runtime.enter();
    let stream = UnixStream::from(OwnedFd::from(agent.into_inner()));
    let socket = Socket::try_from(stream).context("watching the agent's connection")?;
    Ok(AgentClient::new(Client::new(socket)))
}

pub fn container(id: &str) -> ContainerRequest {
    ContainerRequest {
        container: id.into(),
        ..Default::default()
    }
}

pub fn a_process(id: &str, name: &str) -> ProcessRequest {
    ProcessRequest {
        container: id.into(),
        process: name.into(),
        ..Default::default()
    }
}

/// In nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
