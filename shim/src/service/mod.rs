//! containerd's Task service: messages in, messages out; what they mean is [`crate::pod`]'s business.

mod metrics;
mod options;
mod sandbox;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status as StatusMessage, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task as TaskService, create_task};
use containerd_shim_protos::ttrpc::r#async::{Service as TtrpcService, TtrpcContext};
use containerd_shim_protos::ttrpc::{self, Code};
use oci_spec::runtime::LinuxResources;
use serde::de::DeserializeOwned;
use trefoil_core::{Context, Error, ErrorKind, ExitStatus, Result, TerminalSize};

use crate::events::timestamp;
use crate::pod::{CreateRequest, Pod, Status};
use crate::stdio::Streams;

pub use sandbox::sandbox;

type Services = HashMap<String, TtrpcService>;

/// The service as containerd 2 calls it.
pub fn v3(pod: &Arc<Pod>) -> Services {
    create_task(Arc::new(Service { pod: pod.clone() }))
}

/// The same service under the name that containerd 1.6 and 1.7 call: the messages are the same.
pub fn v2(pod: &Arc<Pod>) -> Services {
    v3(pod)
        .into_values()
        .map(|service| ("containerd.task.v2.Task".to_owned(), service))
        .collect()
}

#[derive(Clone)]
struct Service {
    pod: Arc<Pod>,
}

/// What a method of the service returns.
type Answer<T> = ttrpc::Result<T>;

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|why| {
        let code = match why.kind() {
            ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
            ErrorKind::NotFound => Code::NOT_FOUND,
            ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
            ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
            ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
            ErrorKind::Unavailable => Code::UNAVAILABLE,
            ErrorKind::Internal => Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, why.to_string()))
    })
}

/// Reads what containerd sends as JSON within a message.
fn from_json<T: DeserializeOwned>(any: Option<&Any>, what: &str) -> Result<T> {
    let any = any.ok_or_else(|| Error::invalid(format!("the request holds no {what}")))?;
    serde_json::from_slice(&any.value)
        .map_err(|why| Error::invalid(format!("read the request's {what}: {why}")))
}

fn exit<T>(status: ExitStatus, make: impl FnOnce(u32, Timestamp) -> T) -> T {
    make(status.code, timestamp(status.at))
}

impl Service {
    async fn create_container(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(Error::new(
                ErrorKind::Unimplemented,
                format!(
                    "create container {}: restoring a checkpoint is not supported",
                    request.id
                ),
            ));
        }
        let container = self
            .pod
            .create(CreateRequest {
                options: options::decode(request.options.as_ref())?,
                id: request.id,
                bundle: request.bundle,
                rootfs: request.rootfs,
                streams: Streams {
                    terminal: request.terminal,
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                },
            })
            .await?;
        Ok(CreateTaskResponse {
            pid: container.task("")?.pid(),
            ..Default::default()
        })
    }

    async fn start_process(&self, request: StartRequest) -> Result<StartResponse> {
        let container = self.pod.container(&request.id).await?;
        let pid = match request.exec_id.as_str() {
            "" => container.start().await?,
            exec_id => container.start_exec(exec_id).await?,
        };
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete_process(&self, request: DeleteRequest) -> Result<DeleteResponse> {
        let (pid, status) = match request.exec_id.as_str() {
            "" => self.pod.delete(&request.id).await?,
            exec_id => {
                let container = self.pod.container(&request.id).await?;
                container.delete_exec(exec_id).await?
            }
        };
        Ok(exit(status, |exit_status, exited_at| DeleteResponse {
            pid,
            exit_status,
            exited_at: Some(exited_at).into(),
            ..Default::default()
        }))
    }

    async fn add_exec(&self, request: ExecProcessRequest) -> Result<Empty> {
        if request.exec_id.is_empty() {
            return Err(Error::invalid("exec without a name for the process"));
        }
        let container = self.pod.container(&request.id).await?;
        let streams = Streams {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let spec = trefoil_spec::parse_process(&request.spec.value)?;
        container.add_exec(&request.exec_id, spec, streams)?;
        Ok(Empty::default())
    }

    async fn state_of(&self, request: &StateRequest) -> Result<StateResponse> {
        let container = self.pod.container(&request.id).await?;
        let task = container.task(&request.exec_id)?;
        let status = match container.status(&task) {
            Status::Created => StatusMessage::CREATED,
            Status::Running => StatusMessage::RUNNING,
            Status::Paused => StatusMessage::PAUSED,
            Status::Stopped => StatusMessage::STOPPED,
        };
        let mut response = StateResponse {
            id: match task.exec_id.as_str() {
                "" => container.id.clone(),
                exec_id => exec_id.to_owned(),
            },
            bundle: container.bundle.display().to_string(),
            pid: task.pid(),
            status: EnumOrUnknown::new(status),
            stdin: task.streams.stdin.clone(),
            stdout: task.streams.stdout.clone(),
            stderr: task.streams.stderr.clone(),
            terminal: task.streams.terminal,
            exec_id: task.exec_id.clone(),
            ..Default::default()
        };
        if let Some(ended) = task.ended() {
            response.exit_status = ended.code;
            response.exited_at = Some(timestamp(ended.at)).into();
        }
        Ok(response)
    }

    async fn list_processes(&self, request: &PidsRequest) -> Result<PidsResponse> {
        let processes = self.pod.container(&request.id).await?.processes().await?;
        let processes: Result<Vec<_>> = processes
            .into_iter()
            .map(|(pid, exec_id)| {
                let info = exec_id.map(details).transpose()?;
                Ok(ProcessInfo {
                    pid,
                    info: info.into(),
                    ..Default::default()
                })
            })
            .collect();
        Ok(PidsResponse {
            processes: processes?,
            ..Default::default()
        })
    }

    async fn wait_for(&self, request: &WaitRequest) -> Result<WaitResponse> {
        let task = self
            .pod
            .container(&request.id)
            .await?
            .task(&request.exec_id)?;
        Ok(exit(task.wait().await, |exit_status, exited_at| {
            WaitResponse {
                exit_status,
                exited_at: Some(exited_at).into(),
                ..Default::default()
            }
        }))
    }

    async fn kill_process(&self, request: &KillRequest) -> Result<Empty> {
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|signal| *signal <= libc::SIGRTMAX())
            .ok_or_else(|| Error::invalid(format!("there is no signal {}", request.signal)))?;
        let container = self.pod.container(&request.id).await?;
        container
            .kill(&request.exec_id, signal, request.all)
            .await?;
        Ok(Empty::default())
    }

    async fn resize(&self, request: &ResizePtyRequest) -> Result<Empty> {
        let task = self
            .pod
            .container(&request.id)
            .await?
            .task(&request.exec_id)?;
        let size = TerminalSize {
            width: u16::try_from(request.width).unwrap_or(u16::MAX),
            height: u16::try_from(request.height).unwrap_or(u16::MAX),
        };
        task.resize(size).await?;
        Ok(Empty::default())
    }

    async fn close_stdio(&self, request: &CloseIORequest) -> Result<Empty> {
        let task = self
            .pod
            .container(&request.id)
            .await?
            .task(&request.exec_id)?;
        if request.stdin {
            task.close_stdin().await;
        }
        Ok(Empty::default())
    }

    async fn measure(&self, request: &StatsRequest) -> Result<StatsResponse> {
        let stats = self.pod.container(&request.id).await?.stats().await?;
        Ok(StatsResponse {
            stats: Some(metrics::pack(&stats).context(|| "encode the statistics")?).into(),
            ..Default::default()
        })
    }

    fn connection(&self, request: &ConnectRequest) -> ConnectResponse {
        // Succeeds for any name: containerd asks after the pod as well as its containers.
        let task = self
            .pod
            .container_made(&request.id)
            .and_then(|container| container.task("").ok());
        ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task.map_or_else(
                || {
                    self.pod
                        .sandbox_status(&request.id)
                        .map_or(0, |status| status.pid)
                },
                |task| task.pid(),
            ),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }
    }
}

/// Names the exec'd process that a pid belongs to.
fn details(exec_id: String) -> Result<Any> {
    let details = ProcessDetails {
        exec_id,
        ..Default::default()
    };
    Ok(Any {
        type_url: "containerd.runc.v1.ProcessDetails".into(),
        value: details
            .write_to_bytes()
            .context(|| "encode a process's name")?,
        ..Default::default()
    })
}

/// Carries a request through to its end whatever happens to the connection it came by: containerd may die
/// in the middle of one, and finds the outcome when it is back.
async fn carry_through<T: Send + 'static>(
    pod: &Pod,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Answer<T> {
    let outcome = tokio::spawn(work).await;
    pod.changes().notify_one();
    answer(
        outcome.unwrap_or_else(|why| Err(Error::internal(format!("the request was lost: {why}")))),
    )
}

/// [`carry_through`] for requests that are answered by nothing.
async fn carry_out(
    pod: &Pod,
    work: impl Future<Output = Result<()>> + Send + 'static,
) -> Answer<Empty> {
    carry_through(pod, work).await.map(|()| Empty::default())
}

#[async_trait]
impl TaskService for Service {
    async fn create(&self, _: &TtrpcContext, r: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        let service = self.clone();
        carry_through(&self.pod, async move { service.create_container(r).await }).await
    }

    async fn start(&self, _: &TtrpcContext, r: StartRequest) -> Answer<StartResponse> {
        let service = self.clone();
        carry_through(&self.pod, async move { service.start_process(r).await }).await
    }

    async fn delete(&self, _: &TtrpcContext, r: DeleteRequest) -> Answer<DeleteResponse> {
        let service = self.clone();
        carry_through(&self.pod, async move { service.delete_process(r).await }).await
    }

    async fn exec(&self, _: &TtrpcContext, r: ExecProcessRequest) -> Answer<Empty> {
        answer(self.add_exec(r).await)
    }

    async fn state(&self, _: &TtrpcContext, r: StateRequest) -> Answer<StateResponse> {
        answer(self.state_of(&r).await)
    }

    async fn pids(&self, _: &TtrpcContext, r: PidsRequest) -> Answer<PidsResponse> {
        answer(self.list_processes(&r).await)
    }

    async fn pause(&self, _: &TtrpcContext, r: PauseRequest) -> Answer<Empty> {
        let container = answer(self.pod.container(&r.id).await)?;
        carry_out(&self.pod, async move { container.pause().await }).await
    }

    async fn resume(&self, _: &TtrpcContext, r: ResumeRequest) -> Answer<Empty> {
        let container = answer(self.pod.container(&r.id).await)?;
        carry_out(&self.pod, async move { container.resume().await }).await
    }

    async fn checkpoint(&self, _: &TtrpcContext, r: CheckpointTaskRequest) -> Answer<Empty> {
        answer(Err(Error::new(
            ErrorKind::Unimplemented,
            format!("checkpoint container {}: not supported", r.id),
        )))
    }

    async fn kill(&self, _: &TtrpcContext, r: KillRequest) -> Answer<Empty> {
        answer(self.kill_process(&r).await)
    }

    async fn resize_pty(&self, _: &TtrpcContext, r: ResizePtyRequest) -> Answer<Empty> {
        answer(self.resize(&r).await)
    }

    async fn close_io(&self, _: &TtrpcContext, r: CloseIORequest) -> Answer<Empty> {
        answer(self.close_stdio(&r).await)
    }

    async fn update(&self, _: &TtrpcContext, r: UpdateTaskRequest) -> Answer<Empty> {
        let resources: LinuxResources = answer(from_json(r.resources.as_ref(), "resources"))?;
        let container = answer(self.pod.container(&r.id).await)?;
        carry_out(&self.pod, async move { container.update(&resources).await }).await
    }

    async fn wait(&self, _: &TtrpcContext, r: WaitRequest) -> Answer<WaitResponse> {
        answer(self.wait_for(&r).await)
    }

    async fn stats(&self, _: &TtrpcContext, r: StatsRequest) -> Answer<StatsResponse> {
        answer(self.measure(&r).await)
    }

    async fn connect(&self, _: &TtrpcContext, r: ConnectRequest) -> Answer<ConnectResponse> {
        Ok(self.connection(&r))
    }

    async fn shutdown(&self, _: &TtrpcContext, r: ShutdownRequest) -> Answer<Empty> {
        let pod = self.pod.clone();
        carry_out(&self.pod, async move { pod.shut_down(&r.id).await }).await
    }
}
