//! A container in the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use tokio::sync::Notify;
use trefoil_agent_protocol::service::{
    ContainerRequest, CreateContainerRequest, ExecRequest, SignalRequest, UpdateRequest,
};
use trefoil_core::stats::Stats;
use trefoil_core::{Container, Context, Error, ErrorKind, ExecConfig, Process, Result, Stdio};

use crate::agent::{answer, asking, making, waiting};
use crate::guest::Guest;
use crate::process::GuestProcess;
use crate::share::Shared;
use crate::size::Size;
use crate::specification;
use crate::streams::Streams;

/// A container, until it is deleted.
pub(crate) struct GuestContainer {
    id: String,
    guest: Arc<Guest>,
    size: Size,
    pub(crate) init: Arc<GuestProcess>,
    owns_its_processes: bool,
    kills: Arc<Kills>,
    /// What of the host it has.
    shared: Shared,
    deleted: AtomicBool,
}

/// Kills for want of memory that nobody has been told of yet.
#[derive(Debug, Default)]
struct Kills {
    untold: AtomicU64,
    more: Notify,
}

/// What a container is made of.
pub(crate) struct Parts {
    /// Its name.
    pub id: String,
    /// Its configuration, as the guest is to have it.
    pub spec: Spec,
    /// Its init's streams.
    pub stdio: Stdio,
    /// What of the host it has.
    pub shared: Shared,
}

impl GuestContainer {
    /// Has the agent make it.
    pub async fn create(guest: &Arc<Guest>, size: Size, parts: Parts) -> Result<Self> {
        let Parts {
            id,
            spec,
            stdio,
            shared,
        } = parts;
        let configuration =
            serde_json::to_vec(&spec).context(|| format!("write the configuration of {id}"))?;
        let terminal = stdio.terminal;
        let made = async {
            let (streams, names) = Streams::connect(guest, stdio).await?;
            let request = CreateContainerRequest {
                container: id.clone(),
                configuration,
                rootfs: Some(shared.rootfs()).into(),
                streams: Some(names).into(),
                ..Default::default()
            };
            let create = guest.agent.client.create_container(making(), &request);
            let started = answer(|| format!("create container {id} in the guest"), create).await?;
            Ok((streams, started.pid))
        };
        let (streams, pid) = match made.await {
            Ok(made) => made,
            Err(why) => {
                shared.release().await?;
                return Err(why);
            }
        };
        let kills = Arc::new(Kills::default());
        tokio::spawn(watch_memory(guest.clone(), request_for(&id), kills.clone()));
        Ok(Self {
            init: Arc::new(GuestProcess::new(guest, &id, "", pid, terminal, streams)),
            owns_its_processes: owns_its_processes(&spec),
            guest: guest.clone(),
            size,
            kills,
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
}

fn request_for(id: &str) -> ContainerRequest {
    ContainerRequest {
        container: id.to_owned(),
        ..Default::default()
    }
}

/// Whether the configuration asks for a new pid namespace: then the kernel ends all with the init.
fn owns_its_processes(spec: &Spec) -> bool {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid)
}

/// Asks for the next kill, again and again, until there can be none.
async fn watch_memory(guest: Arc<Guest>, request: ContainerRequest, kills: Arc<Kills>) {
    loop {
        let next = guest.agent.client.out_of_memory(waiting(), &request);
        match answer(
            || format!("watch the memory of container {}", request.container),
            next,
        )
        .await
        {
            Ok(_) => {
                kills.untold.fetch_add(1, Ordering::Relaxed);
                kills.more.notify_one();
            }
            Err(why) => {
                if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) {
                    log::warn!("{why}");
                }
                return;
            }
        }
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
        answer(|| self.doing("start"), start).await.map(drop)
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
        let started = answer(doing, self.guest.agent.client.exec(making(), &request)).await?;
        Ok(Arc::new(GuestProcess::new(
            &self.guest,
            &self.id,
            &id,
            started.pid,
            terminal,
            streams,
        )))
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
        answer(doing, self.guest.agent.client.signal(asking(), &request))
            .await
            .map(drop)
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
        let stats = answer(doing, self.guest.agent.client.stats(asking(), &request)).await?;
        serde_json::from_slice(&stats.stats).context(doing)
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        let request = self.request();
        let processes = self.guest.agent.client.processes(asking(), &request);
        let answer = answer(|| self.doing("list the processes of"), processes).await?;
        Ok(answer.pids)
    }

    fn owns_its_processes(&self) -> bool {
        self.owns_its_processes
    }

    async fn out_of_memory(&self) {
        loop {
            let more = self.kills.more.notified();
            if self.kills.untold.swap(0, Ordering::Relaxed) > 0 {
                return;
            }
            more.await;
        }
    }

    async fn delete(&self) -> Result<()> {
        if !self.deleted.load(Ordering::Relaxed) && self.guest.machine.end().is_none() {
            let request = self.request();
            let delete = self.guest.agent.client.delete_container(making(), &request);
            match answer(|| self.doing("delete"), delete).await {
                Ok(_) => {}
                // It is gone with the guest, or has been deleted by a request that was given up.
                Err(_) if self.guest.machine.end().is_some() => {}
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                Err(why) => return Err(why),
            }
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
