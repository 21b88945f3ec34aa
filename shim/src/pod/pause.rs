//! The pod's own container, where the sandbox itself stands for it. On a node without virtual machines a
//! program that does nothing holds the pod's namespaces; where the sandbox has a process of its own that
//! holds them, no such program runs, and its init is the sandbox's process, by that number too.

use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::runtime::{LinuxResources, Spec};
use tokio::sync::watch;
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, Error, ErrorKind, ExecConfig, ExitStatus, Process, Result, Sandbox, TerminalSize,
    annotations,
};

/// The pod's own container.
pub struct Pause {
    id: String,
    init: Arc<SandboxProcess>,
}

/// Its init.
struct SandboxProcess {
    sandbox: Arc<dyn Sandbox>,
    pid: u32,
    /// What its end is told as, once somebody has asked for it.
    asked: Arc<watch::Sender<Option<u32>>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Pause {
    /// The container `id`, if it is the pod's own and the sandbox stands for it. Must be called within the
    /// event loop.
    pub fn stand_in(
        id: &str,
        spec: &Spec,
        sandbox: &Arc<dyn Sandbox>,
    ) -> Option<Arc<dyn Container>> {
        let annotations = spec.annotations().as_ref()?;
        let kind = annotations.get(annotations::CONTAINER_TYPE)?;
        let pid = sandbox.pid().filter(|_| kind == "sandbox")?;
        Some(Arc::new(Self::new(id, pid, sandbox)))
    }

    fn new(id: &str, pid: u32, sandbox: &Arc<dyn Sandbox>) -> Self {
        let (asked, mut asks) = watch::channel(None);
        let asked = Arc::new(asked);
        let (sender, ended) = watch::channel(None);
        let its = sandbox.clone();
        tokio::spawn(async move {
            let code = tokio::select! {
                biased;
                Ok(code) = asks.wait_for(Option::is_some) => *code,
                _ = its.ended() => None,
            };
            if code.is_some()
                && let Err(why) = its.stop().await
            {
                log::error!("{why}");
            }
            let status = match code {
                Some(code) => ExitStatus::now(code),
                None => ExitStatus::killed_by(libc::SIGKILL),
            };
            sender.send_replace(Some(status));
        });
        Self {
            id: id.to_owned(),
            init: Arc::new(SandboxProcess {
                sandbox: sandbox.clone(),
                pid,
                asked,
                ended,
            }),
        }
    }

    fn refuse(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Unimplemented,
            format!(
                "{what} container {}: it is the pod's own, for which no program runs",
                self.id
            ),
        )
    }
}

impl SandboxProcess {
    /// Has the sandbox end, and tells its end as `code` if nobody has asked before.
    fn ask(&self, code: u32) {
        self.asked.send_if_modified(|asked| match asked {
            Some(_) => false,
            None => {
                *asked = Some(code);
                true
            }
        });
    }
}

#[async_trait]
impl Container for Pause {
    fn init(&self) -> Arc<dyn Process> {
        self.init.clone()
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, _: ExecConfig) -> Result<Arc<dyn Process>> {
        Err(self.refuse("run a process in"))
    }

    async fn kill_all(&self, signal: i32) -> Result<()> {
        match self.init.kill(signal).await {
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    async fn pause(&self) -> Result<()> {
        Err(self.refuse("pause"))
    }

    async fn resume(&self) -> Result<()> {
        Err(self.refuse("resume"))
    }

    async fn update(&self, _: &LinuxResources) -> Result<()> {
        Err(self.refuse("update"))
    }

    /// What the whole pod costs the host.
    async fn stats(&self) -> Result<Stats> {
        let stats = self.init.sandbox.stats().await?;
        stats.ok_or_else(|| self.refuse("measure"))
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        match self.init.exit_status() {
            Some(_) => Ok(Vec::new()),
            None => Ok(vec![self.init.pid()]),
        }
    }

    fn owns_its_processes(&self) -> bool {
        true
    }

    async fn out_of_memory(&self) {
        std::future::pending().await
    }

    async fn delete(&self) -> Result<()> {
        self.init.ask(ExitStatus::killed_by(libc::SIGKILL).code);
        self.init.sandbox.stop().await
    }
}

#[async_trait]
impl Process for SandboxProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The task that waits for the end never ends without a status.
            _ => ExitStatus::killed_by(libc::SIGKILL),
        }
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// What ends the program that stands for a pod elsewhere ends the sandbox, and is told as there; what that
    /// program ignores is ignored.
    async fn kill(&self, signal: i32) -> Result<()> {
        if self.exit_status().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        let code = match signal {
            libc::SIGKILL => ExitStatus::killed_by(signal).code,
            libc::SIGTERM | libc::SIGINT => 0,
            _ => return Ok(()),
        };
        self.ask(code);
        Ok(())
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Ok(())
    }

    async fn close_stdin(&self) {}

    async fn drain(&self) {}

    async fn close_stdio(&self) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use trefoil_core::{ContainerConfig, Stdio};

    use super::*;

    /// A sandbox that is a process, which ends when it is stopped or by itself.
    struct Machine {
        stopped: watch::Sender<bool>,
        by_itself: watch::Sender<bool>,
    }

    #[async_trait]
    impl Sandbox for Machine {
        async fn create_container(&self, _: ContainerConfig) -> Result<Arc<dyn Container>> {
            Err(Error::internal("it makes none"))
        }

        fn pid(&self) -> Option<u32> {
            Some(7)
        }

        async fn ping(&self) -> Result<()> {
            Ok(())
        }

        async fn stats(&self) -> Result<Option<Stats>> {
            Ok(Some(Stats::V2(Box::default())))
        }

        async fn ended(&self) -> String {
            let mut ended = self.by_itself.subscribe();
            ended.wait_for(|ended| *ended).await.expect("it is here");
            "a fault".into()
        }

        async fn stop(&self) -> Result<()> {
            self.stopped.send_replace(true);
            Ok(())
        }

        async fn delete(&self) -> Result<()> {
            self.stop().await
        }
    }

    fn machine() -> Arc<Machine> {
        Arc::new(Machine {
            stopped: watch::Sender::new(false),
            by_itself: watch::Sender::new(false),
        })
    }

    fn pause(machine: &Arc<Machine>) -> Arc<dyn Container> {
        let sandbox: Arc<dyn Sandbox> = machine.clone();
        let spec = |kind: &str| -> Spec {
            let spec = format!(
                r#"{{"ociVersion": "1.1.0", "annotations": {{"{}": "{kind}"}}}}"#,
                annotations::CONTAINER_TYPE
            );
            serde_json::from_str(&spec).expect("a configuration")
        };
        assert!(Pause::stand_in("p", &spec("container"), &sandbox).is_none());
        assert!(Pause::stand_in("p", &Spec::default(), &sandbox).is_none());
        Pause::stand_in("p", &spec("sandbox"), &sandbox).expect("the sandbox stands for it")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_ends_as_the_program_it_stands_for() {
        for (signal, code) in [(libc::SIGTERM, 0), (libc::SIGINT, 0), (libc::SIGKILL, 137)] {
            let machine = machine();
            let pause = pause(&machine);
            let init = pause.init();
            assert_eq!(init.pid(), 7);
            assert_eq!(pause.processes().await.expect("one"), [7]);
            pause.start().await.expect("started");
            init.kill(libc::SIGHUP).await.expect("ignored");
            timeout(Duration::from_millis(20), init.wait())
                .await
                .expect_err("it ignores that");
            init.kill(signal).await.expect("killed");
            assert_eq!(init.wait().await.code, code);
            assert!(*machine.stopped.borrow(), "the sandbox runs on");
            let why = init.kill(signal).await.expect_err("it has ended");
            assert_eq!(why.kind(), ErrorKind::NotFound);
            pause.kill_all(signal).await.expect("nobody is left");
            assert_eq!(pause.processes().await.expect("none"), [0; 0]);
            pause.delete().await.expect("deleted");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_ends_with_the_sandbox_and_with_its_deletion() {
        let machine = machine();
        let init = pause(&machine).init();
        machine.by_itself.send_replace(true);
        assert_eq!(init.wait().await.code, 137);
        assert!(!*machine.stopped.borrow());

        let machine = self::machine();
        let pause = pause(&machine);
        pause.delete().await.expect("deleted");
        assert_eq!(pause.init().wait().await.code, 137);
        assert!(*machine.stopped.borrow());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_no_place_to_run_something() {
        let config = ExecConfig {
            id: "e".into(),
            process: oci_spec::runtime::Process::default(),
            stdio: Stdio::default(),
        };
        let pause = pause(&machine());
        let why = pause.exec(config).await.err().expect("refused");
        assert_eq!(why.kind(), ErrorKind::Unimplemented);
        pause.stats().await.expect("the sandbox's");
    }
}
