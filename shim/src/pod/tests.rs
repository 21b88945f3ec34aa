//! What may happen to a pod while a container of it is being made, with a runtime that takes its time.

mod sandbox;

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use oci_spec::runtime::LinuxResources;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use trefoil_core::stats::Stats;
use trefoil_core::{
    ContainerConfig, ErrorKind, ExecConfig, Process, Runtime, RuntimeOptions, SandboxConfig,
    TerminalSize,
};

use super::*;
use crate::runtimes;
use crate::stdio::Streams;

/// A runtime of which each container is made when somebody permits it, and whose processes run nothing.
#[derive(Debug)]
pub(crate) struct Slow {
    permits: Semaphore,
    /// The containers that there are.
    count: AtomicU32,
}

impl Slow {
    /// One that makes so many containers at once.
    pub(crate) fn permitting(containers: usize) -> Arc<dyn Runtime> {
        Arc::new(SlowSandbox(Self::new(containers)))
    }

    fn new(containers: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(containers),
            count: AtomicU32::new(0),
        })
    }
}

#[derive(Debug)]
struct SlowSandbox(Arc<Slow>);

struct Idle {
    runtime: Arc<Slow>,
    init: Arc<IdleProcess>,
}

struct IdleProcess(watch::Sender<Option<ExitStatus>>);

#[async_trait]
impl Runtime for SlowSandbox {
    async fn create_sandbox(&self, _: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

#[async_trait]
impl Sandbox for SlowSandbox {
    async fn create_container(
        &self,
        config: ContainerConfig,
    ) -> Result<Arc<dyn trefoil_core::Container>> {
        self.0
            .permits
            .acquire()
            .await
            .expect("it is never closed")
            .forget();
        if config.id == "bad" {
            return Err(Error::internal("no luck"));
        }
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Idle {
            runtime: self.0.clone(),
            init: Arc::new(IdleProcess(watch::Sender::new(None))),
        }))
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn stats(&self) -> Result<Option<Stats>> {
        Ok(None)
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl trefoil_core::Container for Idle {
    fn init(&self) -> Arc<dyn Process> {
        self.init.clone()
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, _: ExecConfig) -> Result<Arc<dyn Process>> {
        Ok(self.init.clone())
    }

    async fn kill_all(&self, signal: i32) -> Result<()> {
        self.init.kill(signal).await
    }

    async fn pause(&self) -> Result<()> {
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        Ok(())
    }

    async fn update(&self, _: &LinuxResources) -> Result<()> {
        Ok(())
    }

    async fn stats(&self) -> Result<Stats> {
        Err(Error::internal("it is not measured"))
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        match self.init.exit_status() {
            Some(_) => Ok(Vec::new()),
            None => Ok(vec![1]),
        }
    }

    fn owns_its_processes(&self) -> bool {
        true
    }

    async fn out_of_memory(&self) {
        std::future::pending().await
    }

    async fn delete(&self) -> Result<()> {
        self.runtime.count.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Process for IdleProcess {
    fn pid(&self) -> u32 {
        1
    }

    async fn wait(&self) -> ExitStatus {
        let mut ended = self.0.subscribe();
        let status = ended.wait_for(Option::is_some).await.expect("it is here");
        status.expect("it has ended")
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        *self.0.borrow()
    }

    async fn kill(&self, signal: i32) -> Result<()> {
        self.0.send_replace(Some(ExitStatus::killed_by(signal)));
        Ok(())
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Ok(())
    }

    async fn close_stdin(&self) {}

    async fn drain(&self) {}

    async fn close_stdio(&self) {}
}

/// A pod, with its bundle.
struct Bench {
    bundle: PathBuf,
    runtime: Arc<Slow>,
    pod: Arc<Pod>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let bundle = std::env::temp_dir().join(format!("pod-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("a bundle");
        let configuration = r#"{"ociVersion": "1.1.0"}"#;
        std::fs::write(bundle.join("config.json"), configuration).expect("a configuration");
        let runtime = Slow::new(0);
        let pod = Pod::new(
            name,
            "test",
            Some(Chosen {
                provider: runtimes::provider(Isolation::Namespace).expect("a runtime"),
                runtime: Arc::new(SlowSandbox(runtime.clone())),
            }),
            Publisher::new("/nowhere/containerd.sock.ttrpc", "test"),
            Record::new(bundle.clone(), name, "unix:///nowhere").expect("a record"),
        );
        Self {
            bundle,
            runtime,
            pod: Arc::new(pod),
        }
    }

    fn request(&self, id: &str) -> CreateRequest {
        CreateRequest {
            id: id.to_owned(),
            bundle: self.bundle.to_string_lossy().into_owned(),
            rootfs: Vec::new(),
            streams: Streams::default(),
            options: RuntimeOptions::default(),
        }
    }

    /// Has a container made, and returns when that has begun.
    async fn create(&self, id: &str) -> JoinHandle<Result<()>> {
        let (pod, request) = (self.pod.clone(), self.request(id));
        let making = tokio::spawn(async move { pod.create(request).await.map(drop) });
        while !self.pod.containers().contains_key(id) {
            tokio::task::yield_now().await;
        }
        making
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.bundle);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_that_is_being_made_is_waited_for() {
    let bench = Bench::new("waited-for");
    let making = bench.create("a").await;
    assert!(bench.pod.container_made("a").is_none());
    let pod = bench.pod.clone();
    let asking =
        tokio::spawn(async move { pod.container("a").await.map(|found| found.id.clone()) });
    tokio::task::yield_now().await;
    assert!(!asking.is_finished());
    bench.runtime.permits.add_permits(1);
    assert_eq!(asking.await.expect("asked").expect("found"), "a");
    making.await.expect("made").expect("made");
    assert!(bench.pod.container_made("a").is_some());

    // One that can't be made is not there.
    let making = bench.create("bad").await;
    let pod = bench.pod.clone();
    let asking = tokio::spawn(async move { pod.container("bad").await.map(drop) });
    tokio::task::yield_now().await;
    bench.runtime.permits.add_permits(1);
    let why = asking.await.expect("asked").expect_err("not made");
    assert_eq!(why.kind(), ErrorKind::NotFound);
    let why = making.await.expect("tried").expect_err("not made");
    assert_eq!(why.to_string(), "no luck");
}

/// From an empty list a restarted containerd concludes that the shim has lost track, whatever has been told
/// of an end by then.
#[tokio::test(flavor = "current_thread")]
async fn the_list_of_processes_is_never_empty() {
    let bench = Bench::new("processes");
    bench.runtime.permits.add_permits(1);
    bench.create("a").await.await.expect("made").expect("made");
    let container = bench.pod.container("a").await.expect("there");
    let spec = oci_spec::runtime::Process::default();
    container
        .add_exec("e", spec, Streams::default())
        .expect("noted");
    container.start_exec("e").await.expect("run");
    // In a guest all have one number, and the init is not to be called by the other's name.
    assert_eq!(container.processes().await.expect("listed"), [(1, None)]);
    container
        .kill("", libc::SIGKILL, false)
        .await
        .expect("sent");
    let why = container.processes().await.expect_err("none");
    assert_eq!(why.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_waits_for_all_that_is_there_or_being_made() {
    let bench = Bench::new("end");
    bench.runtime.permits.add_permits(1);
    bench.create("a").await.await.expect("made").expect("made");
    let making = bench.create("bad").await;
    // As containerd does when it could not make another one.
    bench.pod.shut_down("a").await.expect("asked");
    let pod = bench.pod.clone();
    let over = tokio::spawn(async move { pod.over().await });
    // More may come while one is left.
    bench.runtime.permits.add_permits(2);
    making.await.expect("tried").expect_err("not made");
    bench.create("b").await.await.expect("made").expect("made");
    for id in ["a", "b"] {
        tokio::task::yield_now().await;
        assert!(!over.is_finished());
        bench.pod.delete(id).await.expect("deleted");
    }
    over.await.expect("over");
    assert_eq!(bench.runtime.count.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_comes_when_the_last_container_can_not_be_made() {
    let bench = Bench::new("no-container");
    let making = bench.create("bad").await;
    bench.pod.shut_down("a").await.expect("asked");
    let pod = bench.pod.clone();
    let over = tokio::spawn(async move { pod.over().await });
    tokio::task::yield_now().await;
    assert!(!over.is_finished());
    bench.runtime.permits.add_permits(1);
    making.await.expect("tried").expect_err("not made");
    over.await.expect("over");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pod_is_forgotten_unless_something_is_asked_of_it() {
    let patience = FIRST_REQUEST * 10;
    let bench = Bench::new("forgotten");
    let forgotten = tokio::time::timeout(patience, bench.pod.forgotten());
    forgotten.await.expect("nobody has asked");

    let bench = Bench::new("remembered");
    let making = bench.create("bad").await;
    bench.runtime.permits.add_permits(1);
    making.await.expect("tried").expect_err("not made");
    let forgotten = tokio::time::timeout(patience, bench.pod.forgotten());
    forgotten.await.expect_err("somebody has asked");

    let bench = Bench::new("begun");
    bench.create_sandbox().await.expect("created");
    let forgotten = tokio::time::timeout(patience, bench.pod.forgotten());
    forgotten.await.expect_err("somebody has asked");
    bench.pod.end().await.expect("ended");
}
