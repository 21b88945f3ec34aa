//! What the host may ask: messages in, messages out; what they mean is the other modules' business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::Notify;
use trefoil_agent_protocol::service::{
    AdjustClockRequest, Agent, ClockAnswer, ContainerRequest, CreateContainerRequest, ExecRequest,
    KernelLogAnswer, Nothing, ProcessEnded, ProcessRequest, ProcessStarted, ProcessesAnswer,
    ResizeRequest, SetUpRequest, SignalRequest, StatsAnswer, UpdateRequest, VolumeRequest,
};
use trefoil_agent_protocol::status;
use trefoil_core::{Context, Error, Result, Sandbox, TerminalSize};
use ttrpc::r#async::TtrpcContext;

use crate::containers::{Contained, Containers};
use crate::pids::PodPids;
use crate::roots::Root;
use crate::streams::Streams;
use crate::{clock, configuration, names, set_up};
use trefoil_agent_common::kernel_log;

/// As much of the kernel's log as fits into one message, beside the rest of it, in bytes.
const LONGEST_LOG: usize = (4 << 20) - 1024;

/// What a method of the service returns.
type Answer<T> = ttrpc::Result<T>;

/// The pod that this guest is.
#[derive(Clone)]
pub(crate) struct Pod {
    containers: Arc<Containers>,
    streams: Streams,
    pids: Arc<PodPids>,
    /// Whether a set-up was begun, and whether it is done.
    begun: Arc<AtomicBool>,
    is_set_up: Arc<AtomicBool>,
    power_off: Arc<Notify>,
}

impl Pod {
    /// One that nothing has been asked of. `power_off` is notified when the host asks for the end.
    pub(crate) fn new(sandbox: Arc<dyn Sandbox>, streams: Streams, power_off: Arc<Notify>) -> Self {
        Self {
            containers: Arc::new(Containers::new(sandbox)),
            streams,
            pids: Arc::default(),
            begun: Arc::default(),
            is_set_up: Arc::default(),
            power_off,
        }
    }

    fn set_up(&self, request: &SetUpRequest) -> Result<()> {
        if self.begun.swap(true, Ordering::Relaxed) {
            return Err(Error::precondition(
                "set up the guest: that has been asked before",
            ));
        }
        set_up::set_up(request)?;
        self.is_set_up.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The containers, which there may be only once the guest is a pod's.
    fn containers(&self) -> Result<&Containers> {
        match self.is_set_up.load(Ordering::Relaxed) {
            true => Ok(&self.containers),
            false => Err(Error::precondition("the guest has not been set up")),
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Contained>> {
        self.containers()?.get(id)
    }

    async fn create(&self, request: CreateContainerRequest) -> Result<ProcessStarted> {
        let containers = self.containers()?;
        let id = names::check("container", &request.container)?;
        let (mut spec, volumes) = configuration::read(id, &request.configuration)?;
        if let Some(linux) = spec.linux_mut() {
            self.pids.share_with(linux)?;
        }
        let root = || Root::make(id, &request.rootfs);
        let stdio = self.streams.open(&request.streams);
        let container = containers.create(id, spec, volumes, root, stdio).await?;
        Ok(started(container.inner.init().pid()))
    }

    async fn exec(&self, request: ExecRequest) -> Result<ProcessStarted> {
        let container = self.container(&request.container)?;
        let name = names::check("process", &request.process)?;
        let process = trefoil_runc::parse_process(&request.configuration)
            .map_err(|why| Error::invalid(format!("the process's configuration: {why}")))?;
        let stdio = self.streams.open(&request.streams);
        Ok(started(container.exec(name, process, stdio).await?.pid()))
    }

    async fn wait(&self, request: &ProcessRequest) -> Result<ProcessEnded> {
        let status = self
            .container(&request.container)?
            .wait(&request.process)
            .await?;
        Ok(ProcessEnded {
            code: status.code,
            at: nanoseconds(status.at),
            ..Default::default()
        })
    }

    async fn signal(&self, request: &SignalRequest) -> Result<()> {
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|signal| *signal <= libc::SIGRTMAX())
            .ok_or_else(|| Error::invalid(format!("there is no signal {}", request.signal)))?;
        let container = self.container(&request.container)?;
        match request.all {
            true => container.inner.kill_all(signal).await,
            false => container.process(&request.process)?.kill(signal).await,
        }
    }

    async fn resize(&self, request: &ResizeRequest) -> Result<()> {
        let size = TerminalSize {
            width: u16::try_from(request.width).unwrap_or(u16::MAX),
            height: u16::try_from(request.height).unwrap_or(u16::MAX),
        };
        let container = self.container(&request.container)?;
        container.process(&request.process)?.resize(size).await
    }

    async fn close_stdin(&self, request: &ProcessRequest) -> Result<()> {
        let container = self.container(&request.container)?;
        container.process(&request.process)?.close_stdin().await;
        Ok(())
    }

    async fn update(&self, request: &UpdateRequest) -> Result<()> {
        let container = self.container(&request.container)?;
        let resources = configuration::read_resources(&request.resources)?;
        container.inner.update(&resources).await
    }

    async fn stats(&self, request: &ContainerRequest) -> Result<StatsAnswer> {
        let stats = self.container(&request.container)?.inner.stats().await?;
        Ok(StatsAnswer {
            stats: serde_json::to_vec(&stats).context(|| "encode the statistics")?,
            ..Default::default()
        })
    }

    async fn processes(&self, request: &ContainerRequest) -> Result<ProcessesAnswer> {
        let container = self.container(&request.container)?;
        Ok(ProcessesAnswer {
            pids: container.inner.processes().await?,
            ..Default::default()
        })
    }
}

fn started(pid: u32) -> ProcessStarted {
    ProcessStarted {
        pid,
        ..Default::default()
    }
}

/// Since 1970.
fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn kernel_log() -> Result<KernelLogAnswer> {
    let mut text = kernel_log::read().context(|| "read the kernel's log")?;
    let surplus = text.len().saturating_sub(LONGEST_LOG);
    text.drain(..surplus);
    Ok(KernelLogAnswer {
        text,
        ..Default::default()
    })
}

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|why| status::to_answer(&why))
}

fn nothing(result: Result<()>) -> Answer<Nothing> {
    answer(result.map(|()| Nothing::default()))
}

/// Carries a request through even if the host gives it up: what is half done would stay so.
async fn carry_out<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Answer<T> {
    let outcome = tokio::spawn(work).await;
    answer(outcome.unwrap_or_else(|why| Err(Error::internal(format!("carry out: {why}")))))
}

#[async_trait]
impl Agent for Pod {
    async fn set_up(&self, _: &TtrpcContext, request: SetUpRequest) -> Answer<Nothing> {
        nothing(Pod::set_up(self, &request))
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> Answer<ProcessStarted> {
        let pod = self.clone();
        carry_out(async move { pod.create(request).await }).await
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<Nothing> {
        let container = answer(self.container(&request.container))?;
        carry_out(async move { container.inner.start().await }).await?;
        Ok(Nothing::default())
    }

    async fn delete_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<Nothing> {
        let pod = self.clone();
        carry_out(async move { pod.containers()?.delete(&request.container).await }).await?;
        Ok(Nothing::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<ProcessStarted> {
        let pod = self.clone();
        carry_out(async move { Pod::exec(&pod, request).await }).await
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRequest) -> Answer<ProcessEnded> {
        answer(Pod::wait(self, &request).await)
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> Answer<Nothing> {
        nothing(Pod::signal(self, &request).await)
    }

    async fn resize(&self, _: &TtrpcContext, request: ResizeRequest) -> Answer<Nothing> {
        nothing(Pod::resize(self, &request).await)
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: ProcessRequest) -> Answer<Nothing> {
        nothing(Pod::close_stdin(self, &request).await)
    }

    async fn pause(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Nothing> {
        let container = answer(self.container(&request.container))?;
        nothing(container.inner.pause().await)
    }

    async fn resume(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Nothing> {
        let container = answer(self.container(&request.container))?;
        nothing(container.inner.resume().await)
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> Answer<Nothing> {
        nothing(Pod::update(self, &request).await)
    }

    async fn stats(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<StatsAnswer> {
        answer(Pod::stats(self, &request).await)
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<ProcessesAnswer> {
        answer(Pod::processes(self, &request).await)
    }

    async fn out_of_memory(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Nothing> {
        let container = answer(self.container(&request.container))?;
        nothing(container.out_of_memory().await)
    }

    async fn refresh_volume(&self, _: &TtrpcContext, request: VolumeRequest) -> Answer<Nothing> {
        let pod = self.clone();
        let refresh = async move { pod.containers()?.refresh(&request.share).await };
        carry_out(refresh).await?;
        Ok(Nothing::default())
    }

    async fn adjust_clock(
        &self,
        _: &TtrpcContext,
        request: AdjustClockRequest,
    ) -> Answer<ClockAnswer> {
        answer(clock::adjust(&request))
    }

    async fn kernel_log(&self, _: &TtrpcContext, _: Nothing) -> Answer<KernelLogAnswer> {
        answer(kernel_log())
    }

    async fn power_off(&self, _: &TtrpcContext, _: Nothing) -> Answer<Nothing> {
        self.power_off.notify_one();
        // The answer is the end of the connection.
        std::future::pending().await
    }
}
