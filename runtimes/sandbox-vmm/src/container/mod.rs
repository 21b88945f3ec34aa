//! A container in the guest.

mod process;
mod stats;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use oci_spec::runtime::{LinuxResources, Spec};
use trefoil_agent_protocol::service::{
    ContainerRequest, CreateContainerRequest, ExecRequest, SignalRequest, UpdateRequest,
};
use trefoil_core::stats::Stats;
use trefoil_core::{Container, Context, Error, ErrorKind, ExecConfig, Process, Result, Stdio};
use trefoil_spec::namespaces::owns_its_processes;

use crate::content::share::Shared;
use crate::guest::Guest;
use crate::guest::agent::{answer, asking, deleting, making, measuring, signalling};
use crate::guest::oom_kills::OomKills;
use crate::machine::size::Size;
use crate::specification;
use process::{GuestProcess, Named};
use streams::Streams;

/// How long a request about a container may go on once its init has ended.
const OUTLIVING: Duration = Duration::from_secs(2);

/// How often a guest is asked to delete a container.
const DELETIONS: u32 = 2;

/// A container, until it is deleted.
pub(crate) struct GuestContainer {
    id: String,
    guest: Arc<Guest>,
    size: Size,
    pub(crate) init: Arc<GuestProcess>,
    owns_its_processes: bool,
    kills: OomKills,
    /// Held as long as the container has a pid namespace of its own.
    _own_pids: Option<OwnPids>,
    /// What of the host it has.
    shared: Shared,
    deleted: AtomicBool,
}

/// What a container is made of.
pub(crate) struct NewContainer {
    /// Its name.
    pub id: String,
    /// What the pod's manifest calls it; its id if that is not known.
    pub name: String,
    /// Its configuration, as the guest is to have it.
    pub spec: Spec,
    /// Its init's streams.
    pub stdio: Stdio,
    /// What of the host it has.
    pub shared: Shared,
    /// What tells that it has a pid namespace of its own, if it has.
    pub own_pids: Option<OwnPids>,
}

/// Held by each container of a pod that has a pid namespace of its own.
pub(crate) type OwnPids = Arc<()>;

impl GuestContainer {
    /// Has the agent make it.
    pub async fn create(guest: &Arc<Guest>, size: Size, new: NewContainer) -> Result<Self> {
        let NewContainer {
            id,
            name,
            spec,
            stdio,
            shared,
            own_pids,
        } = new;
        let configuration =
            serde_json::to_vec(&spec).context(|| format!("write the configuration of {id}"))?;
        let terminal = stdio.terminal;
        let made = async {
            let (streams, names) = Streams::connect(guest, stdio).await?;
            let request = CreateContainerRequest {
                container: id.clone(),
                name,
                configuration,
                rootfs: Some(shared.rootfs()).into(),
                streams: Some(names).into(),
                ..Default::default()
            };
            let create = guest.agent.client.create_container(making(), &request);
            answer(|| format!("create container {id} in the guest"), create).await?;
            Ok(streams)
        };
        let streams = match made.await {
            Ok(streams) => streams,
            Err(why) => {
                shared.release().await?;
                return Err(why);
            }
        };
        let named = Named {
            container: &id,
            process: "",
            terminal,
            init: None,
        };
        Ok(Self {
            init: Arc::new(GuestProcess::new(guest, &named, streams)),
            owns_its_processes: owns_its_processes(&spec),
            guest: guest.clone(),
            size,
            kills: OomKills::watch(guest.clone(), request_for(&id)),
            _own_pids: own_pids,
            shared,
            deleted: AtomicBool::new(false),
            id,
        })
    }

    fn request(&self) -> ContainerRequest {
        request_for(&self.id)
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} container {}", self.id)
    }

    /// The outcome of a request that means nothing once the init has ended. The end is not to be told before
    /// such a request is over, and a guest may take its time over it.
    async fn while_it_lives<T>(
        &self,
        doing: impl FnOnce() -> String,
        outcome: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let over = async {
            self.init.ended().await;
            tokio::time::sleep(OUTLIVING).await;
        };
        tokio::select! {
            biased;
            outcome = outcome => outcome,
            () = over => Err(Error::precondition(format!("{}: its init has ended", doing()))),
        }
    }

    /// Has the guest delete the container. What it makes of that is its own affair: nothing of the host's is
    /// kept for a guest that does not let go of it.
    async fn delete_in_guest(&self) {
        let request = self.request();
        for _ in 0..DELETIONS {
            let delete = self
                .guest
                .agent
                .client
                .delete_container(deleting(), &request);
            match answer(|| self.doing("delete"), delete).await {
                Ok(_) => return,
                // It is gone with the guest, or has been deleted by a request that was given up.
                Err(_) if self.guest.machine.end().is_some() => return,
                Err(why) if why.kind() == ErrorKind::NotFound => return,
                // It has had its time.
                Err(why) if why.kind() == ErrorKind::Unavailable => return log::warn!("{why}"),
                Err(why) => log::warn!("{why}"),
            }
        }
    }
}

fn request_for(id: &str) -> ContainerRequest {
    ContainerRequest {
        container: id.to_owned(),
        ..Default::default()
    }
}

#[async_trait]
impl Container for GuestContainer {
    fn init(&self) -> Arc<dyn Process> {
        self.init.clone()
    }

    async fn start(&self) -> Result<()> {
        let request = self.request();
        let start = self.guest.agent.client.start_container(making(), &request);
        let doing = || self.doing("start");
        let started = self.while_it_lives(doing, answer(doing, start)).await;
        started.map(drop)
    }

    async fn exec(&self, config: ExecConfig) -> Result<Arc<dyn Process>> {
        let ExecConfig { id, process, stdio } = config;
        let doing = || format!("run process {id} in container {}", self.id);
        let process = specification::process(&process).map_err(|why| why.context(doing()))?;
        let configuration = serde_json::to_vec(&process).context(doing)?;
        let terminal = stdio.terminal;
        let (streams, names) = Streams::connect(&self.guest, stdio).await?;
        let request = ExecRequest {
            container: self.id.clone(),
            process: id.clone(),
            configuration,
            streams: Some(names).into(),
            ..Default::default()
        };
        let started = answer(doing, self.guest.agent.client.exec(making(), &request));
        self.while_it_lives(doing, started).await?;
        let named = Named {
            container: &self.id,
            process: &id,
            terminal,
            init: Some(&self.init),
        };
        Ok(Arc::new(GuestProcess::new(&self.guest, &named, streams)))
    }

    async fn kill_all(&self, signal: i32) -> Result<()> {
        if self.guest.machine.end().is_some() {
            return Ok(());
        }
        let request = SignalRequest {
            container: self.id.clone(),
            signal: signal.unsigned_abs(),
            all: true,
            ..Default::default()
        };
        let doing = || self.doing(&format!("send signal {signal} to all of"));
        let sent = async {
            answer(
                doing,
                self.guest.agent.client.signal(signalling(), &request),
            )
            .await
            .map(drop)
        };
        // What an ended init has left behind.
        if self.init.exit_status().is_some() {
            return sent.await;
        }
        if signal == libc::SIGKILL {
            self.init.insist();
        }
        self.init.signalled(sent).await
    }

    async fn pause(&self) -> Result<()> {
        let request = self.request();
        let pause = self.guest.agent.client.pause(asking(), &request);
        answer(|| self.doing("pause"), pause).await.map(drop)
    }

    async fn resume(&self) -> Result<()> {
        let request = self.request();
        let resume = self.guest.agent.client.resume(asking(), &request);
        answer(|| self.doing("resume"), resume).await.map(drop)
    }

    async fn update(&self, resources: &LinuxResources) -> Result<()> {
        let doing = || self.doing("update");
        fits(resources, self.size).map_err(|why| why.context(doing()))?;
        let resources = specification::resources(resources).map_err(|why| why.context(doing()))?;
        let request = UpdateRequest {
            container: self.id.clone(),
            resources: serde_json::to_vec(&resources).context(doing)?,
            ..Default::default()
        };
        answer(doing, self.guest.agent.client.update(asking(), &request))
            .await
            .map(drop)
    }

    async fn stats(&self) -> Result<Stats> {
        let request = self.request();
        let doing = || self.doing("read what is used by");
        let told = answer(doing, self.guest.agent.client.stats(measuring(), &request));
        stats::check(&told.await?.stats, self.size).map_err(|why| why.context(doing()))
    }

    /// The machine's process, as long as the container has any: those that the guest tells of have numbers
    /// of its own, which are other processes' on the host.
    async fn processes(&self) -> Result<Vec<u32>> {
        match self.init.exit_status() {
            Some(_) => Ok(Vec::new()),
            None => Ok(vec![self.guest.machine.pid()]),
        }
    }

    fn owns_its_processes(&self) -> bool {
        self.owns_its_processes
    }

    async fn out_of_memory(&self) {
        self.kills.next().await;
    }

    async fn delete(&self) -> Result<()> {
        if !self.deleted.load(Ordering::Relaxed) && self.guest.machine.end().is_none() {
            self.delete_in_guest().await;
            self.deleted.store(true, Ordering::Relaxed);
        }
        self.shared.release().await
    }
}

/// Whether the machine is large enough for limits.
fn fits(resources: &LinuxResources, size: Size) -> Result<()> {
    let memory = resources
        .memory()
        .as_ref()
        .and_then(|memory| memory.limit());
    let has = u64::from(size.memory) << 20;
    if let Some(limit) = memory.and_then(|limit| u64::try_from(limit).ok())
        && limit > has
    {
        return Err(Error::invalid(format!(
            "{limit} bytes of memory are more than the {has} of the pod's machine, which does not grow"
        )));
    }
    let cpu = resources.cpu().as_ref();
    let quota = cpu
        .and_then(|cpu| cpu.quota())
        .and_then(|quota| u64::try_from(quota).ok());
    if let (Some(quota), Some(period)) = (quota, cpu.and_then(|cpu| cpu.period()))
        && quota > period.saturating_mul(size.cpus.into())
    {
        return Err(Error::invalid(format!(
            "a quota of {quota} in {period} microseconds is more than the {} processors of the pod's \
             machine, which does not grow",
            size.cpus
        )));
    }
    Ok(())
}
