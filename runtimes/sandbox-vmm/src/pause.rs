//! The pod's own container. On the host a program that does nothing holds the pod's namespaces; here the
//! machine does, and no such program runs. Its init is the machine's process, by that number too.

use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;
use trefoil_cgroups::Cgroup;
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, Context, Error, ErrorKind, ExecConfig, ExitStatus, Process, Result, TerminalSize,
};

use crate::guest::Guest;

/// The pod's own container.
pub(crate) struct Pause {
    id: String,
    init: Arc<Machine>,
    /// Of all the pod's processes on the host.
    cgroup: Cgroup,
}

/// Its init.
struct Machine {
    guest: Arc<Guest>,
    /// What its death is told as, once somebody has asked for it.
    asked: Arc<watch::Sender<Option<u32>>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Pause {
    /// The pod's own container. Must be called within the event loop.
    pub fn new(id: String, guest: &Arc<Guest>, cgroup: Cgroup) -> Self {
        let (asked, mut asks) = watch::channel(None);
        let asked = Arc::new(asked);
        let (sender, ended) = watch::channel(None);
        let its_guest = guest.clone();
        tokio::spawn(async move {
            let code = tokio::select! {
                biased;
                Ok(code) = asks.wait_for(Option::is_some) => *code,
                _ = its_guest.machine.ended() => None,
            };
            if code.is_some()
                && let Err(why) = its_guest.stop().await
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
            id,
            init: Arc::new(Machine {
                guest: guest.clone(),
                asked,
                ended,
            }),
            cgroup,
        }
    }

    fn refuse(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Unimplemented,
            format!(
                "{what} container {}: it is the pod's own, which is a machine and no program",
                self.id
            ),
        )
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
        self.cgroup
            .stats()
            .context(|| format!("read what pod {} uses", self.id))
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
        self.init.guest.stop().await
    }
}

#[async_trait]
impl Process for Machine {
    fn pid(&self) -> u32 {
        self.guest.machine.pid()
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

    /// What ends the program that stands for a pod on the host ends the machine, and is told as there;
    /// what that program ignores is ignored.
    async fn kill(&self, signal: i32) -> Result<()> {
        if self.exit_status().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        let code = match signal {
            libc::SIGKILL => ExitStatus::killed_by(signal).code,
            libc::SIGTERM | libc::SIGINT => 0,
            _ => return Ok(()),
        };
        self.asked.send_if_modified(|asked| match asked {
            Some(_) => false,
            None => {
                *asked = Some(code);
                true
            }
        });
        Ok(())
    }

    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Ok(())
    }

    async fn close_stdin(&self) {}

    async fn drain(&self) {}

    async fn close_stdio(&self) {}
}
