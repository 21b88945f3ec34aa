//! A pod's shim, asked as containerd's sandbox controller asks it. CRI itself never asks some of this.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::sandbox_api::{
    PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    SandboxStatusResponse, StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::Client;
use containerd_shim_protos::ttrpc::context::{Context as Call, with_duration};

use crate::cri::shim_side;
use crate::{Handler, Rig};

/// The shim of a pod.
pub struct SandboxApi {
    client: SandboxClient,
    id: String,
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

fn call() -> Call {
    with_duration(LIMIT)
}

/// The directory that containerd's sandbox controller gives a pod.
pub fn bundle(rig: &Rig, id: &str) -> PathBuf {
    rig.directory()
        .join("state/io.containerd.sandbox.controller.v1.shim/k8s.io")
        .join(id)
}

/// Starts a pod's server as containerd does, by hand; `noted` if containerd has come to writing down where
/// it listens.
pub fn start_server(rig: &Rig, handler: Handler, id: &str, noted: bool) -> Result<()> {
    let bundle = bundle(rig, id);
    fs::create_dir_all(bundle.join("rootfs"))?;
    let shim = rig.directory().join("bin").join(handler.shim());
    fs::write(
        bundle.join("shim-binary-path"),
        shim.as_os_str().as_encoded_bytes(),
    )?;
    let mut socket = rig.socket().into_os_string();
    let start = rig
        .command(&shim)?
        .current_dir(&bundle)
        .args(["-namespace", "k8s.io", "-id", id, "-address"])
        .arg(&socket)
        .arg("start")
        .env("MAX_SHIM_VERSION", "3")
        .env("TTRPC_ADDRESS", {
            socket.push(".ttrpc");
            &socket
        })
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        start.status.success(),
        "{}",
        String::from_utf8_lossy(&start.stderr)
    );
    if noted {
        fs::write(bundle.join("bootstrap.json"), &start.stdout)?;
    }
    ensure!(!shim_side(id)?.is_empty(), "no server was found");
    Ok(())
}

impl SandboxApi {
    /// Connects to the shim of a pod, where containerd has noted that it listens; it is asked about `id`.
    pub fn connect(rig: &Rig, pod: &str, id: &str) -> Result<Self> {
        let file = bundle(rig, pod).join("bootstrap.json");
        let noted = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let noted: serde_json::Value = serde_json::from_slice(&noted)?;
        let address = noted["address"].as_str().context("no address is noted")?;
        let client = Client::connect(address).context("connecting to the shim")?;
        Ok(Self {
            client: SandboxClient::new(client),
            id: id.to_owned(),
        })
    }

    /// PingSandbox.
    pub fn ping(&self) -> Result<()> {
        let request = PingRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        self.client.ping_sandbox(call(), &request)?;
        Ok(())
    }

    /// Platform: the operating system and the architecture.
    pub fn platform(&self) -> Result<(String, String)> {
        let request = PlatformRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.client.platform(call(), &request)?;
        let platform = answer.platform;
        Ok((platform.os.clone(), platform.architecture.clone()))
    }

    /// SandboxStatus, with all it has.
    pub fn status(&self) -> Result<SandboxStatusResponse> {
        let request = SandboxStatusRequest {
            sandbox_id: self.id.clone(),
            verbose: true,
            ..Default::default()
        };
        Ok(self.client.sandbox_status(call(), &request)?)
    }

    /// StartSandbox.
    pub fn start(&self) -> Result<u32> {
        let request = StartSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        Ok(self.client.start_sandbox(call(), &request)?.pid)
    }

    /// StopSandbox.
    pub fn stop(&self) -> Result<()> {
        let request = StopSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        self.client.stop_sandbox(call(), &request)?;
        Ok(())
    }

    /// WaitSandbox: the exit code, and the second of the end.
    pub fn wait(&self) -> Result<(u32, i64)> {
        let request = WaitSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.client.wait_sandbox(call(), &request)?;
        Ok((answer.exit_status, answer.exited_at.seconds))
    }

    /// SandboxMetrics: whose they are, their type, and their length.
    pub fn metrics(&self) -> Result<(String, String, usize)> {
        let request = SandboxMetricsRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let metrics = self.client.sandbox_metrics(call(), &request)?.metrics;
        let data = &metrics.data;
        Ok((metrics.id.clone(), data.type_url.clone(), data.value.len()))
    }
}
