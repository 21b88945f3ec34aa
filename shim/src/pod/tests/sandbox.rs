//! What containerd's Sandbox API may ask of a pod, and when.

use super::*;

impl Bench {
    /// The pod, as containerd's Sandbox API describes it.
    fn sandbox_request(&self) -> SandboxRequest {
        SandboxRequest {
            id: self.pod.id.clone(),
            namespace: "test".into(),
            bundle: self.bundle.clone(),
            netns: None,
            pod: crate::cri::PodSandboxConfig::default(),
        }
    }

    pub(super) async fn create_sandbox(&self) -> Result<()> {
        let annotations = Annotations::new();
        self.pod
            .create_sandbox(self.sandbox_request(), annotations)
            .await
    }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|why| why.kind())
}

#[tokio::test(flavor = "current_thread")]
async fn a_sandbox_goes_from_state_to_state_by_its_own_requests() {
    let bench = Bench::new("sandbox-states");
    let (pod, id) = (&bench.pod, "sandbox-states");
    bench.runtime.permits.add_permits(1);
    assert_eq!(kind(pod.start_sandbox(id).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(pod.stop_sandbox(id).await), Some(ErrorKind::NotFound));
    bench.create_sandbox().await.expect("created");
    let again = bench.create_sandbox().await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
    let state = || pod.sandbox_status(id).expect("there").state;
    assert_eq!(state(), SandboxState::Created);
    let early = pod.create(bench.request("early")).await;
    assert_eq!(kind(early), Some(ErrorKind::FailedPrecondition));

    pod.start_sandbox(id).await.expect("started");
    assert_eq!(state(), SandboxState::Running);
    let again = pod.start_sandbox(id).await;
    assert_eq!(kind(again), Some(ErrorKind::FailedPrecondition));
    pod.ping_sandbox(id).await.expect("it answers");
    let unmeasured = pod.measure_sandbox(id).await;
    assert_eq!(kind(unmeasured), Some(ErrorKind::Unimplemented));
    bench.create("a").await.await.expect("made").expect("made");

    for _ in 0..2 {
        pod.stop_sandbox(id).await.expect("stopped");
        assert_eq!(pod.wait_sandbox(id).await.expect("ended").code, 0);
    }
    assert_eq!(state(), SandboxState::Stopped);
    let container = pod.container("a").await.expect("it stays");
    let init = container.task("").expect("it has one");
    assert_eq!(init.wait().await.code, 137);
    let late = pod.create(bench.request("late")).await;
    assert_eq!(kind(late), Some(ErrorKind::FailedPrecondition));
    assert_eq!(
        kind(pod.ping_sandbox(id).await),
        Some(ErrorKind::FailedPrecondition)
    );
    pod.shut_down_sandbox(id).await.expect("shut down");
}

#[tokio::test(flavor = "current_thread")]
async fn a_sandbox_outlives_its_containers_and_takes_them_along() {
    let bench = Bench::new("sandbox-end");
    let id = "sandbox-end";
    bench.runtime.permits.add_permits(2);
    bench.create_sandbox().await.expect("created");
    bench.pod.start_sandbox(id).await.expect("started");
    let pod = bench.pod.clone();
    let over = tokio::spawn(async move { pod.over().await });
    bench.create("a").await.await.expect("made").expect("made");
    bench.pod.delete("a").await.expect("deleted");
    // As containerd does for a container that it could not make.
    bench.pod.shut_down("a").await.expect("asked");
    tokio::task::yield_now().await;
    assert!(!over.is_finished());
    assert!(bench.bundle.join("hostname").exists());

    bench.create("b").await.await.expect("made").expect("made");
    let another = bench.pod.shut_down_sandbox("another").await;
    assert_eq!(kind(another), Some(ErrorKind::NotFound));
    bench.pod.shut_down(id).await.expect("shut down");
    over.await.expect("over");
    assert_eq!(bench.runtime.count.load(Ordering::Relaxed), 0);
    assert!(bench.pod.containers().is_empty());
    bench.pod.end().await.expect("again");
    std::fs::remove_dir_all(&bench.bundle).expect("nothing is mounted");
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_that_is_being_made_when_its_sandbox_stops_is_removed() {
    for (name, shut_down) in [("sandbox-stops", false), ("sandbox-shuts-down", true)] {
        let bench = Bench::new(name);
        bench.create_sandbox().await.expect("created");
        bench.pod.start_sandbox(name).await.expect("started");
        let making = bench.create("a").await;
        let pod = bench.pod.clone();
        let stopping = tokio::spawn(async move {
            match shut_down {
                true => pod.shut_down_sandbox(name).await,
                false => pod.stop_sandbox(name).await,
            }
        });
        tokio::task::yield_now().await;
        assert!(!stopping.is_finished());
        let late = bench.pod.create(bench.request("late")).await;
        let late = late.err().expect("refused").to_string();
        assert!(late.contains("is being stopped"), "{late}");

        bench.runtime.permits.add_permits(1);
        let why = making.await.expect("tried").expect_err("not kept");
        assert_eq!(why.kind(), ErrorKind::FailedPrecondition);
        stopping.await.expect("asked").expect("stopped");
        assert_eq!(bench.runtime.count.load(Ordering::Relaxed), 0);
        assert!(bench.pod.containers().is_empty());
        let record = crate::record::read(&bench.bundle).expect("read");
        assert!(record.expect("there is one").containers.is_empty());
        bench.pod.end().await.expect("ended");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_is_never_made_does_not_keep_its_sandbox_from_stopping() {
    let bench = Bench::new("sandbox-waits");
    bench.create_sandbox().await.expect("created");
    bench
        .pod
        .start_sandbox("sandbox-waits")
        .await
        .expect("started");
    let making = bench.create("a").await;
    bench
        .pod
        .stop_sandbox("sandbox-waits")
        .await
        .expect("stopped");
    let ended = bench.pod.wait_sandbox("sandbox-waits").await;
    assert_eq!(ended.expect("it has ended").code, 0);
    assert!(!making.is_finished());
    bench.runtime.permits.add_permits(1);
    making.await.expect("tried").expect_err("not kept");
    bench.pod.end().await.expect("ended");
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_without_a_configuration_is_refused_by_its_file() {
    let bench = Bench::new("no-configuration");
    let configuration = bench.bundle.join("config.json");
    std::fs::remove_file(&configuration).expect("removed");
    let made = bench.pod.create(bench.request("no-configuration")).await;
    let why = made.err().expect("refused").to_string();
    let path = configuration.display();
    let expected = format!("read {path}: no such file or directory");
    assert_eq!(
        why,
        format!("create container no-configuration: {expected}")
    );
}
