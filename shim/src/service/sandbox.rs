//! containerd's Sandbox service: messages in, messages out; what they mean is [`crate::pod`]'s business.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox as SandboxService, create_sandbox};
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use trefoil_core::{Context, Error, Result};

use super::{Answer, Service, Services, answer, carry_through, metrics};
use crate::cri::{self, PodSandboxConfig};
use crate::events::timestamp;
use crate::pod::{Pod, SandboxRequest, SandboxState};

/// The service.
pub fn sandbox(pod: &Arc<Pod>) -> Services {
    create_sandbox(Arc::new(Service { pod: pod.clone() }))
}

/// The processor's architecture, as Go names it.
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// What containerd says of the pod.
fn options(any: Option<&Any>) -> Result<PodSandboxConfig> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(PodSandboxConfig::default());
    };
    if any.type_url.rsplit('/').next() != Some(cri::TYPE) {
        return Err(Error::invalid(format!(
            "unknown type of options {:?}; supported: {}",
            any.type_url,
            cri::TYPE
        )));
    }
    PodSandboxConfig::parse(&any.value)
        .map_err(|why| why.context(format!("read the options ({})", cri::TYPE)))
}

impl Service {
    async fn create_pod(&self, request: CreateSandboxRequest) -> Result<CreateSandboxResponse> {
        let doing = || format!("create sandbox {}", request.sandbox_id);
        let pod = options(request.options.as_ref()).map_err(|why| why.context(doing()))?;
        let mut annotations = pod.annotations.clone();
        // CRI leaves these empty; other clients say theirs here.
        for (name, value) in request.annotations {
            annotations.entry(name).or_insert(value);
        }
        let netns = Some(request.netns_path).filter(|path| !path.is_empty());
        let request = SandboxRequest {
            id: request.sandbox_id,
            namespace: self.pod.namespace().to_owned(),
            bundle: PathBuf::from(request.bundle_path),
            netns: netns.map(PathBuf::from),
            pod,
        };
        self.pod.create_sandbox(request, annotations).await?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_pod(&self, id: &str) -> Result<StartSandboxResponse> {
        let status = self.pod.start_sandbox(id).await?;
        Ok(StartSandboxResponse {
            pid: status.pid,
            created_at: status.started.map(timestamp).into(),
            ..Default::default()
        })
    }

    fn status_of_pod(&self, request: &SandboxStatusRequest) -> Result<SandboxStatusResponse> {
        let id = &request.sandbox_id;
        let status = self.pod.sandbox_status(id)?;
        let (state, process) = match status.state {
            SandboxState::Created => ("SANDBOX_NOTREADY", "created"),
            SandboxState::Running => ("SANDBOX_READY", "running"),
            SandboxState::Stopped => ("SANDBOX_NOTREADY", "stopped"),
        };
        let mut response = SandboxStatusResponse {
            sandbox_id: id.clone(),
            pid: status.pid,
            state: state.into(),
            created_at: status.started.map(timestamp).into(),
            exited_at: status.ended.map(|ended| timestamp(ended.at)).into(),
            ..Default::default()
        };
        if request.verbose {
            // As CRI tells it of a container.
            let info = serde_json::json!({
                "pid": status.pid,
                "processStatus": process,
                "isolation": self.pod.isolation().map(|isolation| isolation.to_string()),
            });
            response.info.insert("info".into(), info.to_string());
        }
        Ok(response)
    }

    async fn metrics_of_pod(&self, id: &str) -> Result<SandboxMetricsResponse> {
        let stats = self.pod.measure_sandbox(id).await?;
        let mut response = SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.id = id.to_owned();
        metric.timestamp = Some(timestamp(SystemTime::now())).into();
        metric.data = Some(metrics::pack(&stats).context(|| "encode the statistics")?).into();
        Ok(response)
    }
}

#[async_trait]
impl SandboxService for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        r: CreateSandboxRequest,
    ) -> Answer<CreateSandboxResponse> {
        let service = self.clone();
        carry_through(&self.pod, async move { service.create_pod(r).await }).await
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        r: StartSandboxRequest,
    ) -> Answer<StartSandboxResponse> {
        let service = self.clone();
        let work = async move { service.start_pod(&r.sandbox_id).await };
        carry_through(&self.pod, work).await
    }

    async fn platform(&self, _: &TtrpcContext, r: PlatformRequest) -> Answer<PlatformResponse> {
        answer(self.pod.sandbox_status(&r.sandbox_id))?;
        let mut response = PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".into();
        platform.architecture = ARCHITECTURE.into();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        r: StopSandboxRequest,
    ) -> Answer<StopSandboxResponse> {
        let pod = self.pod.clone();
        let work = async move { pod.stop_sandbox(&r.sandbox_id).await };
        let stopped = carry_through(&self.pod, work).await;
        stopped.map(|()| StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        r: WaitSandboxRequest,
    ) -> Answer<WaitSandboxResponse> {
        let status = answer(self.pod.wait_sandbox(&r.sandbox_id).await)?;
        Ok(WaitSandboxResponse {
            exit_status: status.code,
            exited_at: Some(timestamp(status.at)).into(),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        r: SandboxStatusRequest,
    ) -> Answer<SandboxStatusResponse> {
        answer(self.status_of_pod(&r))
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, r: PingRequest) -> Answer<PingResponse> {
        let pinged = self.pod.ping_sandbox(&r.sandbox_id).await;
        answer(pinged.map(|()| PingResponse::default()))
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        r: ShutdownSandboxRequest,
    ) -> Answer<ShutdownSandboxResponse> {
        let pod = self.pod.clone();
        let work = async move { pod.shut_down_sandbox(&r.sandbox_id).await };
        let done = carry_through(&self.pod, work).await;
        done.map(|()| ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        r: SandboxMetricsRequest,
    ) -> Answer<SandboxMetricsResponse> {
        answer(self.metrics_of_pod(&r.sandbox_id).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(kind: &str, value: &[u8]) -> Any {
        Any {
            type_url: kind.into(),
            value: value.into(),
            ..Default::default()
        }
    }

    #[test]
    fn options_are_cris_description_or_none() {
        let none = PodSandboxConfig::default();
        assert_eq!(options(None).expect("none"), none);
        assert_eq!(options(Some(&any("", b"x"))).expect("none"), none);
        let web = [0x12, 3, b'w', b'e', b'b'];
        for kind in [
            cri::TYPE.to_owned(),
            format!("type.googleapis.com/{}", cri::TYPE),
        ] {
            let read = options(Some(&any(&kind, &web))).expect("read");
            assert_eq!(read.hostname, "web");
        }
    }

    #[test]
    fn other_options_are_refused_by_name() {
        for (kind, value, phrase) in [
            (
                "runtime.v2.PodSandboxConfig",
                &b""[..],
                "supported: runtime.v1.PodSandboxConfig",
            ),
            (cri::TYPE, &[0x12, 9], "malformed message"),
        ] {
            let why = options(Some(&any(kind, value))).expect_err("refused");
            assert!(why.to_string().contains(phrase), "{why}");
        }
    }
}
