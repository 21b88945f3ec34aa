//! The other ends of what the host's side talks to: an agent that keeps the protocol but runs nothing,
//! and machines without a guest.

mod machines;

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use trefoil_agent_protocol::service::{
    self, AdjustClockRequest, ClockAnswer, ContainerRequest, CreateContainerRequest, ExecRequest,
    Nothing, ProcessEnded, ProcessRequest, ProcessStarted, ProcessesAnswer, PutFilesRequest,
    SignalRequest, StatsAnswer, create_agent,
};
use trefoil_agent_protocol::{READY_PORT, status};
use trefoil_core::Error;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};

use crate::guest::Guest;
use crate::guest::agent::Agent;
pub(crate) use machines::*;

/// What an agent has been asked, and what it is to answer.
#[derive(Default)]
pub(crate) struct Fake {
    /// Requests that make something or end something, in words.
    pub(crate) asked: Mutex<Vec<String>>,
    /// The last that made a container.
    pub(crate) created: Mutex<Option<CreateContainerRequest>>,
    /// The last that ran a process.
    pub(crate) run: Mutex<Option<ExecRequest>>,
    processes: Mutex<HashMap<(String, String), Code>>,
    /// Has a kill for want of memory be told.
    pub(crate) kill: Notify,
    /// How it behaves.
    pub(crate) manners: Mutex<Manners>,
    /// How often it has told of a kill for want of memory.
    pub(crate) told: AtomicU32,
    /// What it says that a container uses.
    pub(crate) stats: Mutex<Vec<u8>>,
    /// How far its clock is before the host's, in nanoseconds.
    pub(crate) clock: Mutex<i64>,
    /// The process that is in the machine's place.
    machine: i32,
    /// The connection once more.
    connection: Option<UnixStream>,
}

/// How an agent may behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manners {
    /// As it should.
    #[default]
    Good,
    /// It leaves requests without an answer, but those that make a container or a process.
    Deaf,
    /// It answers that all is done, and does nothing.
    Lying,
    /// It refuses all that ends something.
    Refusing,
    /// It tells of kills for want of memory without end.
    Flooding,
}

/// The exit code of a process, once it has ended.
type Code = watch::Sender<Option<u32>>;

/// The agent's number of a process: one for all.
pub(crate) const PID: u32 = 42;

impl Fake {
    /// Lets a process end.
    pub(crate) fn end(&self, container: &str, process: &str, code: u32) {
        self.process(container, process).send_replace(Some(code));
    }

    /// Ends the connection.
    pub(crate) fn hang_up(&self) {
        let connection = self.connection.as_ref().expect("served");
        connection.shutdown(Shutdown::Both).expect("open");
    }

    fn process(&self, container: &str, process: &str) -> Code {
        let name = (container.to_owned(), process.to_owned());
        let mut processes = self.processes.lock().expect("lock");
        let sender = processes
            .entry(name)
            .or_insert_with(|| watch::channel(None).0);
        sender.clone()
    }

    fn manners(&self) -> Manners {
        *self.manners.lock().expect("lock")
    }

    /// Comes back to who is to be served, with whether something is to be done.
    async fn listen(&self) -> ttrpc::Result<bool> {
        match self.manners() {
            Manners::Deaf => std::future::pending().await,
            Manners::Lying => Ok(false),
            Manners::Refusing => Err(status::to_answer(&Error::invalid("no\n".repeat(1 << 19)))),
            Manners::Good | Manners::Flooding => Ok(true),
        }
    }

    /// Writes these bytes between the agent's answers.
    pub(crate) fn say(&self, bytes: &[u8]) {
        use std::io::Write;
        let mut connection = self.connection.as_ref().expect("served");
        connection.write_all(bytes).expect("room");
    }

    fn note(&self, what: String) -> ttrpc::Result<Nothing> {
        self.asked.lock().expect("lock").push(what);
        Ok(Nothing::default())
    }
}

struct Served(Arc<Fake>);

#[async_trait]
impl service::Agent for Served {
    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<ProcessStarted> {
        self.0.note(format!("create {}", request.container))?;
        if request.container == "refused" {
            return Err(status::to_answer(&Error::invalid("no such image")));
        }
        self.0.created.lock().expect("lock").replace(request);
        Ok(ProcessStarted {
            pid: PID,
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Nothing> {
        self.0.note(format!("start {}", request.container))
    }

    async fn delete_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Nothing> {
        self.0.note(format!("delete {}", request.container))?;
        self.0.listen().await?;
        Ok(Nothing::default())
    }

    async fn put_files(
        &self,
        _: &TtrpcContext,
        request: PutFilesRequest,
    ) -> ttrpc::Result<Nothing> {
        for file in &request.files {
            let contents = String::from_utf8_lossy(&file.contents);
            self.0.note(format!("put {}: {contents}", request.volume))?;
        }
        // Long enough for what does not wait for the answer to be seen.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Nothing::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ProcessStarted> {
        self.0.note(format!("exec {}", request.process))?;
        self.0.run.lock().expect("lock").replace(request);
        Ok(ProcessStarted {
            pid: PID + 1,
            ..Default::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<ProcessEnded> {
        let mut ended = self
            .0
            .process(&request.container, &request.process)
            .subscribe();
        let code = *ended.wait_for(Option::is_some).await.expect("kept");
        Ok(ProcessEnded {
            code: code.expect("ended"),
            ..Default::default()
        })
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> ttrpc::Result<Nothing> {
        let all = if request.all { " all" } else { "" };
        let what = format!("signal {} {}{all}", request.signal, request.process);
        if self.0.listen().await? {
            self.0
                .end(&request.container, &request.process, 128 + request.signal);
        }
        self.0.note(what)
    }

    async fn out_of_memory(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<Nothing> {
        if self.0.manners() != Manners::Flooding {
            self.0.kill.notified().await;
        }
        self.0.told.fetch_add(1, Ordering::Relaxed);
        Ok(Nothing::default())
    }

    async fn stats(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<StatsAnswer> {
        self.0.listen().await?;
        Ok(StatsAnswer {
            stats: self.0.stats.lock().expect("lock").clone(),
            ..Default::default()
        })
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        _: ContainerRequest,
    ) -> ttrpc::Result<ProcessesAnswer> {
        Ok(ProcessesAnswer {
            pids: vec![1, PID],
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<Nothing> {
        self.0.listen().await?;
        Ok(Nothing::default())
    }

    async fn adjust_clock(
        &self,
        _: &TtrpcContext,
        request: AdjustClockRequest,
    ) -> ttrpc::Result<ClockAnswer> {
        if request.offset != 0 {
            let how = if request.step { "step" } else { "slew" };
            self.0.note(format!("{how} the clock"))?;
        }
        let mut clock = self.0.clock.lock().expect("lock");
        *clock += request.offset;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("time");
        let now = i64::try_from(now.as_nanos()).expect("time");
        Ok(ClockAnswer {
            time: (now + *clock).unsigned_abs(),
            ..Default::default()
        })
    }

    async fn power_off(&self, _: &TtrpcContext, _: Nothing) -> ttrpc::Result<Nothing> {
        if !self.0.listen().await? {
            return Ok(Nothing::default());
        }
        // SAFETY: it is our child, or has been until just now.
        unsafe { libc::kill(self.0.machine, libc::SIGKILL) };
        std::future::pending().await
    }
}

/// An agent that serves behind a gate, as long as the server is kept.
pub(crate) async fn guest() -> (Arc<Guest>, Gate, Arc<Fake>, Server) {
    let (machine, gate) = machine();
    let mut agent = gate.connect(READY_PORT);
    let pid = i32::try_from(machine.pid()).expect("pid");
    let (fake, server) = tokio::join!(
        async {
            let stream = machine.agent(None).await.expect("connection");
            let (agent, _) = Agent::greet(stream).await.expect("greeting");
            Guest::new(machine, agent, None)
        },
        async {
            use std::io::Write;
            agent
                .write_all(b"ready 0.1.0 tsc=1 resident=2\n")
                .expect("write");
            agent.set_nonblocking(true).expect("non-blocking");
            let mut agent = tokio::net::UnixStream::from_std(agent).expect("watch");
            let mut line = [0; 6];
            tokio::io::AsyncReadExt::read_exact(&mut agent, &mut line)
                .await
                .expect("line");
            assert_eq!(&line, b"serve\n");
            serve(agent, pid).await
        }
    );
    let (fake_agent, server) = server;
    (fake, gate, fake_agent, server)
}

async fn serve(stream: tokio::net::UnixStream, machine: i32) -> (Arc<Fake>, Server) {
    let connection = stream.as_fd().try_clone_to_owned().expect("copy");
    let fake = Arc::new(Fake {
        machine,
        connection: Some(connection.into()),
        ..Fake::default()
    });
    let service: Arc<dyn service::Agent + Send + Sync> = Arc::new(Served(fake.clone()));
    let one = Listener::new(Once(Some(stream)));
    let mut server = Server::new()
        .add_listener(one)
        .register_service(create_agent(service));
    server.start().await.expect("serve");
    (fake, server)
}

/// One connection, and then none for ever.
struct Once(Option<tokio::net::UnixStream>);

impl futures::Stream for Once {
    type Item = std::io::Result<tokio::net::UnixStream>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match self.0.take() {
            Some(stream) => std::task::Poll::Ready(Some(Ok(stream))),
            None => std::task::Poll::Pending,
        }
    }
}
