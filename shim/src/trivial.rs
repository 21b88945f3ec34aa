//! An isolation that is no isolation, which only these tests have: one crate's worth of [`Provider`] here,
//! and one line in [`PROVIDERS`](crate::runtimes::PROVIDERS). All that the shim does for a runtime, it
//! does for this one, and no other file knows it. In these tests it stands in the place of the confidential
//! one, by whose isolation it goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use trefoil_core::settings::{Key, Kind, Settings, Table};
use trefoil_core::{
    ContainerRecord, Context, Isolation, Prepared, Provider, Result, Runtime, SandboxConfig,
    ShimCgroup,
};

use crate::pod::tests::Slow;

/// The provider.
pub struct Trivial;

/// Its part of the configuration.
static TABLE: Table = Table {
    name: "trivial",
    keys: &[Key {
        name: "level",
        kind: Kind::Number,
        annotation: Some("trefoil.dev/trivial-level"),
    }],
};

/// What its pods say to it, in a prefix of ours and in one of others.
const OWN: [&str; 2] = ["trefoil.dev/trivial-data", "example.org/trivial-data"];

/// How many containers it makes.
const MOST: u64 = 9;

/// The file that a sandbox leaves in its bundle, and that which a container leaves in its.
const LEFT: [&str; 2] = ["left-by-sandbox", "left-by-container"];

fn level(settings: &Settings) -> Result<u64> {
    settings.number("level", 1, |level| match level {
        ..=MOST => Ok(level),
        _ => Err(format!("at most {MOST}")),
    })
}

/// Nothing needs to be done before the event loop.
#[derive(Debug)]
struct Ready;

impl Prepared for Ready {
    fn runtime(self: Box<Self>, settings: &Settings, _: ShimCgroup) -> Result<Arc<dyn Runtime>> {
        let containers = usize::try_from(level(settings)?).unwrap_or_default();
        Ok(Slow::permitting(containers))
    }
}

impl Provider for Trivial {
    fn isolation(&self) -> Isolation {
        Isolation::Confidential
    }

    fn unavailable(&self, _: &Settings) -> Option<String> {
        None
    }

    fn features(&self, _: &Settings) -> Value {
        json!({"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "trivial": true})
    }

    fn own_annotations(&self) -> &'static [&'static str] {
        &OWN
    }

    fn rootfs_mounts(&self) -> Option<&'static str> {
        Some("mount/trivial")
    }

    fn table(&self) -> Option<&'static Table> {
        Some(&TABLE)
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        level(settings).map(drop)
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Ready))
    }

    fn sandbox_record(&self, config: &SandboxConfig) -> Result<Option<Value>> {
        Ok(Some(json!({"left": config.bundle.join(LEFT[0])})))
    }

    fn clean_up_sandbox(&self, record: &Value) -> Result<Vec<String>> {
        remove(Path::new(record["left"].as_str().unwrap_or_default()))
    }

    fn clean_up_container(&self, _: &str, container: &ContainerRecord) -> Result<Vec<String>> {
        remove(&container.bundle.join(LEFT[1]))
    }

    fn clean_up_bundle(&self, _: &str, bundle: &Path) -> Result<Vec<String>> {
        remove(&bundle.join(LEFT[1]))
    }
}

fn remove(left: &Path) -> Result<Vec<String>> {
    match std::fs::remove_file(left) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        outcome => outcome
            .map(|()| vec![format!("file {}", left.display())])
            .context(|| format!("remove {}", left.display())),
    }
}

mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use containerd_shim::Flags;
    use containerd_shim_protos::api::{
        CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, WaitRequest,
    };
    use containerd_shim_protos::shim_async::{Client, TaskClient};
    use containerd_shim_protos::ttrpc::r#async::Server;
    use containerd_shim_protos::ttrpc::r#async::transport::Listener;
    use containerd_shim_protos::ttrpc::context::{Context as Timeout, with_duration};

    use super::*;
    use crate::candidates::{self, Candidates, Choice};
    use crate::config::Config;
    use crate::dispatch::{self, Annotations, Handler};
    use crate::events::Publisher;
    use crate::pod::Pod;
    use crate::record::Record;
    use crate::{delete, info, service};

    /// The name of the pod and of its one container.
    const POD: &str = "pod";

    fn handler() -> &'static Handler {
        let name = OsStr::new("containerd-shim-trefoil-confidential-v2");
        Handler::called(Some(name)).expect("a handler")
    }

    /// A directory with a configuration of the node's and the bundle of a pod.
    struct Site(PathBuf);

    impl Site {
        fn new(name: &str, configuration: &str) -> Self {
            let at = std::env::temp_dir().join(format!("trivial-{name}-{}", std::process::id()));
            std::fs::create_dir_all(at.join(POD)).expect("a bundle");
            std::fs::write(at.join("config.toml"), configuration).expect("a configuration");
            let spec = r#"{"ociVersion": "1.1.0"}"#;
            std::fs::write(at.join(POD).join("config.json"), spec).expect("a container's");
            Self(at)
        }

        fn bundle(&self) -> PathBuf {
            self.0.join(POD)
        }

        fn address(&self) -> String {
            format!("unix://{}", self.0.join("socket").display())
        }

        fn config(&self) -> Result<Config> {
            Config::load(&self.0)
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_further_isolation_describes_itself() {
        let info = info::describe(handler(), &[]).expect("described");
        let features: Value = serde_json::from_slice(&info.features.value).expect("JSON");
        assert_eq!(features, Trivial.features(&Settings::default()));
        let mounts: BTreeSet<_> = info.annotations.values().map(String::as_str).collect();
        assert_eq!(mounts, BTreeSet::from(["mount/trivial"]));
    }

    #[test]
    fn a_further_isolation_has_keys_and_annotations() {
        const RAISED: (&str, &str) = (dispatch::ISOLATION, "confidential");
        let site = Site::new(
            "keys",
            "[annotations]\nallowed = ['trefoil.dev/isolation', 'trefoil.dev/trivial-level']\n\
             [trivial]\nlevel = 3\n",
        );
        let config = site.config().expect("read");
        let decided = |annotations: &[(&str, &str)]| {
            let annotations = annotations.iter();
            let annotations = annotations.map(|(name, value)| ((*name).into(), (*value).into()));
            let annotations: Annotations = annotations.collect();
            candidates::decide(Isolation::Namespace, &annotations, &config)
                .and_then(|(provider, settings)| {
                    assert_eq!(provider.isolation(), Trivial.isolation());
                    level(&settings)
                })
                .map_err(|why| why.to_string())
        };
        assert_eq!(decided(&[RAISED]), Ok(3));
        let own = |level| [RAISED, ("trefoil.dev/trivial-level", level)];
        assert_eq!(decided(&own("4")), Ok(4));
        assert_eq!(
            decided(&own("10")),
            Err("the annotation trefoil.dev/trivial-level is 10; it must be at most 9".to_owned())
        );
        assert_eq!(
            decided(&own("much")),
            Err(
                "the annotation trefoil.dev/trivial-level is \"much\"; it must be a number"
                    .to_owned()
            )
        );
        let wrong = Site::new("wrong", "[trivial]\nlevel = 10\n");
        let why = wrong.config().expect_err("too much").to_string();
        assert!(
            why.ends_with("config.toml:2: level is 10; it must be at most 9"),
            "{why}"
        );
    }

    #[test]
    fn what_a_further_isolations_pods_say_is_refused_of_others() {
        let config = Config::load(Path::new("/nowhere/trefoil")).expect("the defaults");
        for name in OWN {
            let own = Annotations::from([(name.to_owned(), String::new())]);
            let decide = |floor| candidates::decide(floor, &own, &config).map(drop);
            decide(Trivial.isolation()).expect("its own");
            dispatch::check_container(Trivial.isolation(), &own).expect("its own");
            for other in [Isolation::Namespace, Isolation::MicroVm] {
                let said = format!(
                    "the annotation {name} is of confidential pods, but the pod is to be {other}"
                );
                let why = decide(other).expect_err("another's");
                assert_eq!(why.to_string(), said);
                let why = dispatch::check_container(other, &own).expect_err("another's");
                assert_eq!(why.to_string(), said);
            }
        }
    }

    /// A pod that is served, and who asks for it.
    async fn serve(site: &Site) -> (Server, TaskClient) {
        let choice = Choice::Open(site.config().expect("read"));
        let candidates = Candidates::prepare(Trivial.isolation(), ShimCgroup::Pod, choice);
        let candidates = candidates.expect("prepared");
        let chosen = candidates.choose(&Annotations::new()).expect("chosen");
        let pod = Arc::new(Pod::new(
            POD,
            "test",
            Some(chosen),
            Publisher::new("/nowhere/containerd.sock.ttrpc", "test"),
            Record::new(site.bundle(), POD, &site.address()).expect("a record"),
        ));
        let listener = UnixListener::bind(site.0.join("socket")).expect("a socket");
        listener.set_nonblocking(true).expect("set");
        let listener = tokio::net::UnixListener::from_std(listener).expect("watched");
        let mut server = Server::new()
            .add_listener(Listener::from(listener))
            .register_service(service::v3(&pod));
        server.start().await.expect("serve");
        let client = Client::connect(&site.address()).await.expect("connect");
        (server, TaskClient::new(client))
    }

    async fn create(task: &TaskClient, site: &Site) {
        let request = CreateTaskRequest {
            id: POD.to_owned(),
            bundle: site.bundle().display().to_string(),
            ..Default::default()
        };
        task.create(within(), &request).await.expect("created");
    }

    fn within() -> Timeout {
        with_duration(Duration::from_secs(60))
    }

    /// Cleans up as containerd's `delete` does; what was removed.
    fn clean_up(site: &Site) -> Vec<String> {
        let flags = Flags {
            namespace: "test".to_owned(),
            id: POD.to_owned(),
            bundle: site.bundle().display().to_string(),
            ..Flags::default()
        };
        let done = delete::clean_up(&flags, handler()).expect("cleaned up");
        assert_eq!(done.failure, None);
        done.removed
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_further_isolation_runs_a_pod() {
        let site = Site::new("runs", "");
        let (mut server, task) = serve(&site).await;
        create(&task, &site).await;
        let id = || POD.to_owned();
        let start = StartRequest {
            id: id(),
            ..Default::default()
        };
        task.start(within(), &start).await.expect("started");
        let kill = KillRequest {
            id: id(),
            signal: 9,
            ..Default::default()
        };
        task.kill(within(), &kill).await.expect("killed");
        let wait = WaitRequest {
            id: id(),
            ..Default::default()
        };
        let ended = task.wait(within(), &wait).await.expect("ended");
        assert_eq!(ended.exit_status, 128 + 9);
        let delete = DeleteRequest {
            id: id(),
            ..Default::default()
        };
        let deleted = task.delete(within(), &delete).await.expect("deleted");
        assert_eq!(deleted.exit_status, 128 + 9);
        task.start(within(), &start).await.expect_err("gone");
        server.shutdown().await.expect("ended");
        std::fs::remove_file(site.0.join("socket")).expect("removed");
        assert_eq!(clean_up(&site), [""; 0]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_further_isolation_is_cleaned_up_after_its_server() {
        let site = Site::new("cleaned", "");
        let (mut server, task) = serve(&site).await;
        create(&task, &site).await;
        let left = LEFT.map(|file| site.bundle().join(file));
        for file in &left {
            std::fs::write(file, "").expect("left");
        }
        server.shutdown().await.expect("ended");
        drop(task);
        let removed = clean_up(&site).join(", ");
        for file in &left {
            assert!(!file.exists(), "{removed}");
            assert!(
                removed.contains(&format!("file {}", file.display())),
                "{removed}"
            );
        }
    }
}
