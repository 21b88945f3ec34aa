//! A pod: a machine that is booted for it and ends with it.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use oci_spec::runtime::Spec;
use tokio::time::timeout;
use trefoil_agent_protocol::service::SetUpRequest;
use trefoil_cgroups::{Cgroup, Origin};
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, ContainerConfig, Context, Error, ErrorKind, Result, Sandbox, SandboxConfig,
    SandboxKind,
};
use trefoil_os::lock;
use trefoil_os::selinux::ExecLabel;

use crate::agent::{Agent, answer, making};
use crate::cgroup;
use crate::cleanup::CleanupRecord;
use crate::clock;
use crate::container::{self, GuestContainer, OwnPids, Parts};
use crate::disks::Places;
use crate::forward::Forwarding;
use crate::guest::{Guest, LAST_WORDS};
use crate::identity::Identity;
use crate::limited::Limited;
use crate::machine::{Embryo, Machine, Plan};
use crate::network::{self, Network};
use crate::phases::Phases;
use crate::runtime::Settings;
use crate::share::Shares;
use crate::size::{self, Bounds, Size};
use crate::specification::{self, Pod};

/// How many bytes the guest's random number generator begins with.
const SEED: usize = 32;

/// A pod that runs.
pub(crate) struct MicroVmSandbox {
    guest: Arc<Guest>,
    size: Size,
    bounds: Bounds,
    shares: Arc<Shares>,
    /// Of the machine, for disks.
    places: Arc<Places>,
    /// While the machine runs.
    forwarding: Mutex<Option<Forwarding>>,
    cgroup: Cgroup,
    /// Where the shim was before it entered the cgroup, if it has.
    origin: Option<Origin>,
    record: CleanupRecord,
    /// Whether the pod is one container that knows nothing of pods.
    lone: bool,
    /// Held as well by each container that has a pid namespace of its own.
    own_pids: OwnPids,
    /// Nobody else may become who the pod's processes are, as long as there are any.
    identity: Mutex<Option<Identity>>,
}

impl MicroVmSandbox {
    /// Boots a pod's machine, ready for its first container. When this fails nothing of it is left.
    pub async fn boot(settings: &Settings, config: &SandboxConfig) -> Result<Self> {
        let begun = Instant::now();
        let mut phases = Phases::begin();
        specification::check_pod(config)?;
        let record = CleanupRecord::of(config);
        let cgroup = record.cgroup()?;
        let limited = Limited::find(&cgroup);
        let bounds = bounds(settings);
        let size = size::of(config, limited, &bounds);
        let mut origin = None;
        let booted = async {
            let network = match &config.netns {
                Some(netns) => network::attach(netns)?,
                None => Network::default(),
            };
            phases.done("network");
            if settings.count_shim {
                // After the network, which needs no cgroup: by now most of the grace period that the kernel
                // waits for has passed (`pass_grace_period`).
                origin = Some(cgroup::enter(&cgroup).await?);
            }
            phases.done("cgroup");
            Self::boot_in(settings, config, network, size, &cgroup, &mut phases).await
        };
        let booted = booted.await;
        let (guest, shares, identity) = match booted {
            Ok(booted) => booted,
            Err(why) => {
                if let Err(and) = leave(&record, &cgroup, origin.as_ref()).await {
                    log::warn!("{and}");
                }
                return Err(why.context(format!("boot the machine of pod {}", config.id)));
            }
        };
        log::info!(
            "the machine of pod {} has {} processors and {} MiB (its cgroup has these limits: {limited}), and was \
             ready after {} ms",
            config.id,
            size.cpus,
            size.memory,
            begun.elapsed().as_millis()
        );
        if let Err(why) = clock::follow(&guest) {
            log::warn!("{why}");
        }
        log::debug!("milliseconds of the boot of {}: {phases}", config.id);
        let forwarding = record
            .netns
            .as_deref()
            .map(|netns| Forwarding::start(netns, &guest.machine));
        let forwarding = match forwarding.transpose() {
            Ok(forwarding) => forwarding,
            Err(why) => {
                // The pod can do without.
                log::warn!("{why}");
                None
            }
        };
        Ok(Self {
            places: Places::new(guest.machine.clone()),
            guest,
            size,
            bounds,
            shares,
            forwarding: Mutex::new(forwarding),
            cgroup,
            origin,
            record,
            lone: config.kind == SandboxKind::SingleContainer,
            own_pids: OwnPids::default(),
            identity: Mutex::new(Some(identity)),
        })
    }

    async fn boot_in(
        settings: &Settings,
        config: &SandboxConfig,
        Network { nics, told }: Network,
        size: Size,
        cgroup: &Cgroup,
        phases: &mut Phases,
    ) -> Result<(Arc<Guest>, Arc<Shares>, Identity)> {
        let pod = &config.id;
        let identity = Identity::claim()?;
        let embryo = {
            let _label = label(config)?;
            Embryo::start(pod, config.oom_score_adj)?
        };
        if !settings.count_shim {
            // It does nothing yet: all that the machine will use counts as the pod's. Otherwise it has
            // inherited the cgroup.
            cgroup::add(cgroup, embryo.pid()).await?;
        }
        let (shares, files) = {
            let _label = label(config)?;
            Shares::start(pod, settings, &embryo, &identity, size, cgroup)?
        };
        phases.done("processes");
        let machine = embryo.launch(&Plan {
            pod,
            settings,
            size,
            identity: &identity,
            nics,
            files,
        })?;
        let machine = Arc::new(machine);
        let booted = async {
            // The guest looks for it once it is asked to serve.
            shares.share_agent(&settings.agent).await?;
            let agent = ready(settings, &machine).await?;
            phases.done_at("VMM", machine.metrics().phases.running.get());
            phases.done("guest");
            let guest = Guest::new(machine.clone(), agent, Some(shares.server()));
            set_up(&guest, config, told).await?;
            phases.done("set-up");
            Ok(guest)
        };
        let why: Error = match booted.await {
            Ok(guest) => return Ok((guest, shares, identity)),
            Err(why) => why,
        };
        // If that is because the machine has ended by itself, its reason tells more than what we missed.
        let _ = timeout(LAST_WORDS, machine.ended()).await;
        machine.kill(&why.to_string());
        let reason = machine.ended().await;
        shares.stop().await;
        Err(Error::new(why.kind(), reason))
    }
}

/// Waits until the guest's agent is ready to be asked.
async fn ready(settings: &Settings, machine: &Machine) -> Result<Agent> {
    let limit = settings.boot_limit;
    let greeted = timeout(limit, async { Agent::greet(machine.agent().await?).await });
    match greeted.await {
        Ok(greeted) => {
            let (agent, ready) = greeted?;
            log::debug!("the guest says: {ready}");
            Ok(agent)
        }
        Err(_) => {
            let used = machine.processor_time().unwrap_or_default();
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("the guest was not ready within {limit:?}, of which it ran for {used:?}"),
            ))
        }
    }
}

/// Makes the guest the pod's.
async fn set_up(guest: &Guest, config: &SandboxConfig, network: Vec<u8>) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context(|| "tell the guest the time")?;
    // A pod without a name of its own has the node's, as it would on the host.
    let hostname = match config.hostname.as_str() {
        "" => nodes_hostname()?,
        own => own.to_owned(),
    };
    let request = SetUpRequest {
        hostname,
        sysctls: config.sysctls.clone(),
        network,
        time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        seed: seed()?,
        share: true,
        ..Default::default()
    };
    let set_up = guest.agent.client.set_up(making(), &request);
    answer(|| "set the guest up", set_up).await.map(drop)
}

fn nodes_hostname() -> Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).context(|| format!("read {path}"))?;
    Ok(name.trim_end().to_owned())
}

fn seed() -> Result<Vec<u8>> {
    let mut seed = vec![0; SEED];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut seed))
        .context(|| "read a seed for the guest from /dev/urandom")?;
    Ok(seed)
}

fn bounds(settings: &Settings) -> Bounds {
    Bounds {
        default_cpus: settings.default_cpus,
        default_memory: settings.default_memory,
        overhead: settings.overhead,
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The pod's label, for the processes that a guest's doings reach: the VMM and the file server.
fn label(config: &SandboxConfig) -> Result<Option<ExecLabel>> {
    let label = config.selinux_label.as_deref();
    let told = label.map(ExecLabel::set).transpose();
    // Be it that the node has no SELinux or that its policy does not know the label.
    told.map_err(|why| Error::invalid(why.to_string()))
}

fn oom_score_adj(spec: &Spec) -> Option<i16> {
    let process = spec.process().as_ref()?;
    i16::try_from(process.oom_score_adj()?).ok()
}

/// Takes away what of a pod is no process.
async fn leave(record: &CleanupRecord, cgroup: &Cgroup, origin: Option<&Origin>) -> Result<()> {
    let left = match &record.netns {
        Some(netns) => network::detach(netns),
        None => Ok(()),
    };
    if let Some(origin) = origin {
        origin.back().context(|| "leave the pod's cgroup")?;
    }
    cgroup::remove(cgroup).await?;
    left
}

#[async_trait]
impl Sandbox for MicroVmSandbox {
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>> {
        let id = config.id.clone();
        let doing = || format!("create container {id}");
        if let Some(reason) = self.guest.machine.end() {
            return Err(Error::precondition(format!(
                "{}: the pod's machine has ended: {reason}",
                doing()
            )));
        }
        if let Some(shortage) = size::shortage(&config.spec, self.size, &self.bounds) {
            log::warn!("{}: {shortage}", doing());
        }
        let pod = Pod {
            id: &self.record.pod,
            pid: self.guest.machine.pid(),
            lone: self.lone,
            apart: Arc::strong_count(&self.own_pids) > 1,
        };
        let translated = self
            .shares
            .translate(&config, pod, &self.places, &self.guest)
            .await;
        let (spec, shared) = translated.map_err(|why| why.context(doing()))?;
        if let Some(score) = oom_score_adj(&config.spec) {
            self.guest.machine.raise_oom_score(score.into())?;
        }
        let parts = Parts {
            own_pids: container::owns_its_processes(&spec).then(|| self.own_pids.clone()),
            id: config.id,
            spec,
            stdio: config.stdio,
            shared,
        };
        let container = GuestContainer::create(&self.guest, self.size, parts).await?;
        Ok(Arc::new(container))
    }

    fn pid(&self) -> Option<u32> {
        Some(self.guest.machine.pid())
    }

    async fn stats(&self) -> Result<Option<Stats>> {
        self.cgroup
            .stats()
            .map(Some)
            .context(|| format!("read what pod {} uses", self.record.pod))
    }

    async fn ended(&self) -> String {
        self.guest.ended().await
    }

    async fn stop(&self) -> Result<()> {
        self.guest.stop().await
    }

    async fn delete(&self) -> Result<()> {
        let stopped = self.guest.stop().await;
        lock(&self.forwarding).take();
        self.shares.stop().await;
        leave(&self.record, &self.cgroup, self.origin.as_ref()).await?;
        stopped?;
        lock(&self.identity).take();
        Ok(())
    }
}
