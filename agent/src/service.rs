//! What the host may ask: messages in, messages out; what they mean is the other modules' business.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use oci_spec::runtime::Process;
use tokio::sync::Notify;
use trefoil_agent_protocol::service::{
    AdjustClockRequest, Agent, ClockAnswer, ContainerRequest, CreateContainerRequest, ExecRequest,
    KernelLogAnswer, Nothing, ProcessEnded, ProcessRequest, ProcessStarted, ProcessesAnswer,
    PutFilesRequest, ResizeRequest, SetUpRequest, SignalRequest, StatsAnswer, UpdateRequest,
    VolumeRequest,
};
use trefoil_agent_protocol::status;
#[cfg(not(feature = "confidential"))]
use trefoil_core::ErrorKind;
use trefoil_core::{Context, Error, Result, Sandbox, TerminalSize};
#[cfg(feature = "confidential")]
use trefoil_os::apart;
use ttrpc::r#async::TtrpcContext;

#[cfg(feature = "confidential")]
use crate::confidential::Author;
use crate::containers::{Containers, PodContainer};
use crate::pids::PodPids;
use crate::roots::Root;
use crate::streams::Streams;
use crate::volumes::Name;
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
    pub(crate) streams: Streams,
    pids: Arc<PodPids>,
    /// Whether a set-up was begun, and whether it is done.
    begun: Arc<AtomicBool>,
    is_set_up: Arc<AtomicBool>,
    power_off: Arc<Notify>,
    #[cfg(feature = "confidential")]
    pub(crate) author: Arc<Author>,
}

/// What a container may be made of, beside what its request says.
#[cfg(not(feature = "confidential"))]
type Granted = ();
#[cfg(feature = "confidential")]
type Granted = trefoil_policy::GrantedRoot;

/// What a confidential pod's policy binds of a request, so that the host has no choice of it: a process's
/// variables, `NAME=value` each, or the paths of files. Sealed secrets are opened in nothing else.
pub(crate) type Bound = Vec<String>;

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
            #[cfg(feature = "confidential")]
            author: Arc::default(),
        }
    }

    /// The same, whose author believes nothing of the host.
    #[cfg(feature = "confidential")]
    pub(crate) fn of(self, author: Arc<Author>) -> Self {
        Self { author, ..self }
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

    pub(crate) fn container(&self, id: &str) -> Result<Arc<PodContainer>> {
        self.containers()?.get(id)
    }

    pub(crate) async fn create(
        &self,
        request: CreateContainerRequest,
        granted: Granted,
        bound: Bound,
    ) -> Result<ProcessStarted> {
        let containers = self.containers()?;
        let id = names::check("container", &request.container)?;
        let mut volumes = Vec::new();
        let mut volume = |source: &str| self.place(id, source, &mut volumes);
        let mut spec = configuration::read(id, &request.configuration, &mut volume)?;
        if let Some(linux) = spec.linux_mut() {
            self.pids.share_with(linux)?;
        }
        if let Some(process) = spec.process_mut() {
            self.unseal(process, &bound).await?;
        }
        let root = || self.root(&request, &granted);
        let stdio = self.streams.open(&request.streams);
        let container = containers.create(id, spec, volumes, root, stdio).await?;
        Ok(started(container.inner.init().pid()))
    }

    /// Where what the source of a mount names is; `volumes` are what has to be held for it to be there.
    #[cfg(not(feature = "confidential"))]
    #[expect(
        clippy::unused_self,
        reason = "a confidential guest's depends on its pod"
    )]
    fn place(&self, _: &str, source: &str, volumes: &mut Vec<Name>) -> Result<PathBuf> {
        let name = Name::of_source(source)?;
        let place = name.place();
        volumes.push(name);
        Ok(place)
    }

    #[cfg(feature = "confidential")]
    fn place(&self, container: &str, source: &str, _: &mut Vec<Name>) -> Result<PathBuf> {
        self.author.pod()?.volume(container, source)
    }

    #[cfg(not(feature = "confidential"))]
    #[expect(
        clippy::unused_self,
        reason = "a confidential guest's depends on its pod"
    )]
    fn root(&self, request: &CreateContainerRequest, (): &Granted) -> Result<Root> {
        Root::make(&request.container, &request.rootfs)
    }

    #[cfg(feature = "confidential")]
    fn root(&self, request: &CreateContainerRequest, granted: &Granted) -> Result<Root> {
        self.author.pod()?.root(request, granted.layers.as_deref())
    }

    #[cfg(not(feature = "confidential"))]
    #[expect(clippy::unused_async, reason = "a confidential guest's waits")]
    async fn put_files(&self, _: PutFilesRequest, _: Bound) -> Result<()> {
        Err(Error::new(
            ErrorKind::Unimplemented,
            "put files into the guest: only a confidential one takes them",
        ))
    }

    /// Makes a volume of files, with secrets in the place of those that are sealed and bound.
    #[cfg(feature = "confidential")]
    pub(crate) async fn put_files(&self, mut request: PutFilesRequest, bound: Bound) -> Result<()> {
        let secrets = self.author.pod()?.secrets();
        secrets.unseal_files(&mut request, &bound).await?;
        let author = self.author.clone();
        apart("files", move || author.pod()?.put_files(&request)).await
    }

    /// Puts secrets in the place of what is sealed of a process's environment.
    #[cfg(feature = "confidential")]
    async fn unseal(&self, process: &mut Process, bound: &[String]) -> Result<()> {
        match process.env_mut() {
            Some(environment) => {
                let secrets = self.author.pod()?.secrets();
                secrets.unseal_environment(environment, bound).await
            }
            None => Ok(()),
        }
    }

    #[cfg(not(feature = "confidential"))]
    #[expect(clippy::unused_async, reason = "a confidential guest's waits")]
    async fn unseal(&self, _: &mut Process, _: &[String]) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn exec(&self, request: ExecRequest, bound: Bound) -> Result<ProcessStarted> {
        let container = self.container(&request.container)?;
        let name = names::check("process", &request.process)?;
        let mut process = trefoil_spec::parse_process(&request.configuration)?;
        self.unseal(&mut process, &bound).await?;
        let stdio = self.streams.open(&request.streams);
        Ok(started(container.exec(name, process, stdio).await?.pid()))
    }

    pub(crate) async fn delete(&self, container: &str) -> Result<()> {
        self.containers()?.delete(container).await
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
        #[cfg(not(feature = "confidential"))]
        return carry_out(async move { pod.create(request, (), Bound::new()).await }).await;
        // It is the gate that makes them.
        #[cfg(feature = "confidential")]
        answer(Err(Error::internal(format!(
            "create container {}: it has not passed the gate of {}",
            request.container,
            pod.containers().map_or("no pod", |_| "the pod")
        ))))
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
        carry_out(async move { pod.delete(&request.container).await }).await?;
        Ok(Nothing::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<ProcessStarted> {
        let pod = self.clone();
        carry_out(async move { Pod::exec(&pod, request, Bound::new()).await }).await
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

    async fn put_files(&self, _: &TtrpcContext, request: PutFilesRequest) -> Answer<Nothing> {
        let pod = self.clone();
        let put = async move { Pod::put_files(&pod, request, Bound::new()).await };
        carry_out(put).await?;
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
