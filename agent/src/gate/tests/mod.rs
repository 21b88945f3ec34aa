//! The host-tamper suite, as far as it needs no guest: the shipped gate before a pod that notes what it
//! is asked.

mod cases;
mod generated;
mod mutation;
mod named;
mod passing;
mod sound;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use trefoil_agent_protocol::service::*;
use trefoil_core::{Error, Result};
use trefoil_os::lock;
use trefoil_policy::{Gate, GrantedRoot, Policy, Protection};
use ttrpc::r#async::TtrpcContext;

use super::{Gated, Guarded};
use crate::service::Bound;

/// A request as it comes over the wire, or an end that nobody asked for.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    SetUp(SetUpRequest),
    Create(CreateContainerRequest),
    Start(ContainerRequest),
    Delete(ContainerRequest),
    Exec(ExecRequest),
    Wait(ProcessRequest),
    Signal(SignalRequest),
    Resize(ResizeRequest),
    CloseStdin(ProcessRequest),
    Pause(ContainerRequest),
    Resume(ContainerRequest),
    Update(UpdateRequest),
    Stats(ContainerRequest),
    Processes(ContainerRequest),
    OutOfMemory(ContainerRequest),
    RefreshVolume(VolumeRequest),
    PutFiles(PutFilesRequest),
    AdjustClock(AdjustClockRequest),
    KernelLog(Nothing),
    PowerOff(Nothing),
    /// A connection to a port, which is no message.
    Forward(u16),
    /// A container's first process ends.
    End(String, u32),
}

/// What a pod behind the gate has been asked.
#[derive(Default)]
struct Noted {
    asked: Mutex<Vec<Message>>,
    granted: Mutex<Option<GrantedRoot>>,
    /// What was bound of it, the last time that something was.
    bound: Mutex<Bound>,
    withheld: Mutex<Vec<(Streams, String)>>,
    ends: Mutex<HashMap<String, watch::Sender<Option<u32>>>>,
    gave_up: Mutex<Option<String>>,
    /// What is asked of the pod fails.
    fails: Mutex<bool>,
}

#[derive(Clone)]
struct FakePod {
    noted: Arc<Noted>,
    policy: Policy,
    protection: Protection,
}

type Answer<T> = ttrpc::Result<T>;

impl FakePod {
    fn note<T: Default>(&self, message: Message) -> Result<T> {
        lock(&self.noted.asked).push(message);
        match *lock(&self.noted.fails) {
            true => Err(Error::internal("it fails")),
            false => Ok(T::default()),
        }
    }

    fn answer<T: Default>(&self, message: Message) -> Answer<T> {
        let noted = self.note(message);
        noted.map_err(|why| trefoil_agent_protocol::status::to_answer(&why))
    }

    fn end(&self, container: &str) -> watch::Sender<Option<u32>> {
        let mut ends = lock(&self.noted.ends);
        let end = ends.entry(container.to_owned());
        end.or_insert_with(|| watch::channel(None).0).clone()
    }
}

#[async_trait]
impl Guarded for FakePod {
    fn open(&self, _: &SetUpRequest) -> Result<Gate> {
        Gate::new(self.policy.clone(), self.protection).map_err(|why| super::denied(&why))
    }

    async fn make(
        &self,
        request: CreateContainerRequest,
        root: GrantedRoot,
        bound: Bound,
    ) -> Result<ProcessStarted> {
        *lock(&self.noted.granted) = Some(root);
        *lock(&self.noted.bound) = bound;
        lock(&self.noted.ends).remove(&request.container);
        self.note(Message::Create(request))
    }

    async fn start(&self, request: ContainerRequest) -> Result<()> {
        self.note(Message::Start(request))
    }

    async fn remove(&self, request: ContainerRequest) -> Result<()> {
        if self.end(&request.container).borrow().is_none() {
            return Err(Error::precondition("its init has not ended"));
        }
        self.note(Message::Delete(request))
    }

    async fn run(&self, request: ExecRequest, bound: Bound) -> Result<ProcessStarted> {
        *lock(&self.noted.bound) = bound;
        self.note(Message::Exec(request))
    }

    async fn put(&self, request: PutFilesRequest, bound: Bound) -> Result<()> {
        *lock(&self.noted.bound) = bound;
        self.note(Message::PutFiles(request))
    }

    fn end_of(&self, container: &str) -> Option<BoxFuture<'static, bool>> {
        let mut end = self.end(container).subscribe();
        let ended = async move {
            let code = end.wait_for(Option::is_some).await;
            code.is_ok_and(|code| *code == Some(0))
        };
        Some(ended.boxed())
    }

    fn withhold(&self, streams: Streams, line: &'static str) {
        lock(&self.noted.withheld).push((streams, line.to_owned()));
    }

    fn give_up(&self, why: Error) {
        *lock(&self.noted.gave_up) = Some(why.to_string());
    }
}

/// Methods that note what they are asked.
macro_rules! noting {
    ($($method:ident($request:ty) -> $answer:ty = $message:ident;)*) => {
        #[async_trait]
        impl Agent for FakePod {
            $(async fn $method(&self, _: &TtrpcContext, request: $request) -> Answer<$answer> {
                self.answer(Message::$message(request))
            })*
        }
    };
}

noting! {
    set_up(SetUpRequest) -> Nothing = SetUp;
    create_container(CreateContainerRequest) -> ProcessStarted = Create;
    start_container(ContainerRequest) -> Nothing = Start;
    delete_container(ContainerRequest) -> Nothing = Delete;
    exec(ExecRequest) -> ProcessStarted = Exec;
    wait(ProcessRequest) -> ProcessEnded = Wait;
    signal(SignalRequest) -> Nothing = Signal;
    resize(ResizeRequest) -> Nothing = Resize;
    close_stdin(ProcessRequest) -> Nothing = CloseStdin;
    pause(ContainerRequest) -> Nothing = Pause;
    resume(ContainerRequest) -> Nothing = Resume;
    update(UpdateRequest) -> Nothing = Update;
    stats(ContainerRequest) -> StatsAnswer = Stats;
    processes(ContainerRequest) -> ProcessesAnswer = Processes;
    out_of_memory(ContainerRequest) -> Nothing = OutOfMemory;
    refresh_volume(VolumeRequest) -> Nothing = RefreshVolume;
    put_files(PutFilesRequest) -> Nothing = PutFiles;
    adjust_clock(AdjustClockRequest) -> ClockAnswer = AdjustClock;
    kernel_log(Nothing) -> KernelLogAnswer = KernelLog;
    power_off(Nothing) -> Nothing = PowerOff;
}

/// A guest with a policy.
struct Guest {
    gated: Gated<FakePod>,
    pod: FakePod,
}

impl Guest {
    fn new(policy: Policy) -> Self {
        Self::protected_by(Protection::Tee, policy)
    }

    fn protected_by(protection: Protection, policy: Policy) -> Self {
        let pod = FakePod {
            noted: Arc::default(),
            policy,
            protection,
        };
        Self {
            gated: Gated::new(pod.clone()),
            pod,
        }
    }

    /// Asks, and answers with what the host is told.
    async fn ask(&self, message: Message) -> Result<(), String> {
        let (agent, at) = (&self.gated, &TtrpcContext::default());
        fn told<T>(answer: Answer<T>) -> Result<(), String> {
            answer.map(drop).map_err(|why| match why {
                ttrpc::Error::RpcStatus(status) => status.message,
                other => other.to_string(),
            })
        }
        match message {
            Message::SetUp(request) => told(agent.set_up(at, request).await),
            Message::Create(request) => told(agent.create_container(at, request).await),
            Message::Start(request) => told(agent.start_container(at, request).await),
            Message::Delete(request) => told(agent.delete_container(at, request).await),
            Message::Exec(request) => told(agent.exec(at, request).await),
            Message::Wait(request) => told(agent.wait(at, request).await),
            Message::Signal(request) => told(agent.signal(at, request).await),
            Message::Resize(request) => told(agent.resize(at, request).await),
            Message::CloseStdin(request) => told(agent.close_stdin(at, request).await),
            Message::Pause(request) => told(agent.pause(at, request).await),
            Message::Resume(request) => told(agent.resume(at, request).await),
            Message::Update(request) => told(agent.update(at, request).await),
            Message::Stats(request) => told(agent.stats(at, request).await),
            Message::Processes(request) => told(agent.processes(at, request).await),
            Message::OutOfMemory(request) => told(agent.out_of_memory(at, request).await),
            Message::RefreshVolume(request) => told(agent.refresh_volume(at, request).await),
            Message::PutFiles(request) => told(agent.put_files(at, request).await),
            Message::AdjustClock(request) => told(agent.adjust_clock(at, request).await),
            Message::KernelLog(request) => told(agent.kernel_log(at, request).await),
            Message::PowerOff(request) => told(agent.power_off(at, request).await),
            Message::Forward(port) => agent.forwards()(port).map_err(|why| why.to_string()),
            Message::End(container, code) => {
                self.pod.end(&container).send_replace(Some(code));
                // Whoever waits for it is woken.
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }

    /// Asks for what is sound.
    async fn sound(&self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            let shown = format!("{message:?}");
            if let Err(why) = self.ask(message).await {
                panic!("{why}: {:.200}", shown);
            }
        }
    }

    /// What the pod was asked last.
    fn last(&self) -> Option<Message> {
        lock(&self.pod.noted.asked).last().cloned()
    }
}

/// Runs on this thread alone, whose checks may be off.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("an event loop").block_on(work)
}
