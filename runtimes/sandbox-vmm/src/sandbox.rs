//! A pod: a machine that is booted for it and ends with it.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use oci_spec::runtime::Spec;
use tokio::time::timeout;
use trefoil_agent_protocol::service::{ScratchDisk, SetUpRequest};
use trefoil_cgroups::{Cgroup, Origin};
use trefoil_core::stats::Stats;
use trefoil_core::{
    Container, ContainerConfig, Context, Error, ErrorKind, Result, Sandbox, SandboxConfig,
    SandboxKind,
};
use trefoil_os::lock;
use trefoil_os::selinux::ExecLabel;
use trefoil_spec::namespaces::owns_its_processes;

use crate::container::{GuestContainer, NewContainer, OwnPids};
use crate::content::disks::DiskSlots;
use crate::content::given::scratch_file;
use crate::content::share::Shares;
use crate::guest::agent::{Agent, answer, making};
use crate::guest::clock;
use crate::guest::forward::Forwarding;
use crate::guest::{Guest, LAST_WORDS};
use crate::host::cgroup;
use crate::host::cleanup::CleanupRecord;
use crate::host::limited::Limited;
use crate::host::network::{self, Network};
use crate::host::uids::UidAllocation;
use crate::machine::Machine;
use crate::machine::boot::{Plan, UnlaunchedVmm};
use crate::machine::phases::Phases;
use crate::machine::profile::Profile;
use crate::machine::size::{self, Bounds, Size};
use crate::settings::Settings;
use crate::specification::{self, Pod};

/// How many bytes the guest's random number generator begins with.
const SEED: usize = 32;

/// A guest that is a pod's, its machine's slots, what it has of the host, and who its processes are.
type Booted = (Arc<Guest>, Arc<DiskSlots>, Arc<Shares>, UidAllocation);

/// A pod that runs.
pub(crate) struct MicroVmSandbox {
    guest: Arc<Guest>,
    size: Size,
    bounds: Bounds,
    shares: Arc<Shares>,
    /// Of the machine, for disks.
    slots: Arc<DiskSlots>,
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
    uids: Mutex<Option<UidAllocation>>,
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
        let (guest, slots, shares, uids) = match booted {
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
            slots,
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
            uids: Mutex::new(Some(uids)),
        })
    }

    async fn boot_in(
        settings: &Settings,
        config: &SandboxConfig,
        Network { nics, told }: Network,
        size: Size,
        cgroup: &Cgroup,
        phases: &mut Phases,
    ) -> Result<Booted> {
        let pod = &config.id;
        let uids = UidAllocation::claim()?;
        let unlaunched = {
            let _label = label(config)?;
            UnlaunchedVmm::start(pod, config.oom_score_adj)?
        };
        if !settings.count_shim {
            // It does nothing yet: all that the machine will use counts as the pod's. Otherwise it has
            // inherited the cgroup.
            cgroup::add(cgroup, unlaunched.pid()).await?;
        }
        let profile = &settings.profile;
        let (shares, files) = match &profile.file_server {
            Some(kind) => {
                let _label = label(config)?;
                let (shares, files) = Shares::start(pod, kind, &unlaunched, &uids, size, cgroup)?;
                (shares, Some(files))
            }
            None => (no_shares(profile), None),
        };
        phases.done("processes");
        let machine = unlaunched.launch(&Plan {
            pod,
            profile,
            size,
            uids: &uids,
            nics,
            files,
        })?;
        let machine = Arc::new(machine);
        let booted = async {
            if let Some(kind) = &profile.file_server {
                // The guest looks for it once it is asked to serve.
                shares.share_agent(&kind.agent).await?;
            }
            let agent = ready(settings, &machine).await?;
            phases.done_at("VMM", machine.metrics().phases.running.get());
            phases.done("guest");
            let guest = Guest::new(machine.clone(), agent, shares.server());
            let slots = DiskSlots::new(machine.clone());
            let scratch = scratch(profile, &slots).await?;
            set_up(&guest, config, profile, told, scratch).await?;
            phases.done("set-up");
            Ok((guest, slots))
        };
        let why: Error = match booted.await {
            Ok((guest, slots)) => return Ok((guest, slots, shares, uids)),
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
    let listener = settings.profile.listener();
    let greeted = timeout(limit, async {
        Agent::greet(machine.agent(listener).await?).await
    });
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
async fn set_up(
    guest: &Guest,
    config: &SandboxConfig,
    profile: &Profile,
    network: Vec<u8>,
    scratch: Option<u8>,
) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context(|| "tell the guest the time")?;
    // A pod without a name of its own has the node's, as it would on the host.
    let hostname = match config.hostname.as_str() {
        "" => nodes_hostname()?,
        own => own.to_owned(),
    };
    let initdata = profile.unshared.as_ref().map(|one| one.initdata.clone());
    let request = SetUpRequest {
        hostname,
        sysctls: config.sysctls.clone(),
        network,
        time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        seed: seed()?,
        share: profile.file_server.is_some(),
        initdata: initdata.unwrap_or_default(),
        scratch: scratch.map(scratch_disk).into(),
        ..Default::default()
    };
    let set_up = guest.agent.client.set_up(making(), &request);
    answer(|| "set the guest up", set_up).await.map(drop)
}

fn scratch_disk(device: u8) -> ScratchDisk {
    ScratchDisk {
        device: device.into(),
        ..Default::default()
    }
}

/// What a pod without a file server has of the host.
fn no_shares(profile: &Profile) -> Arc<Shares> {
    let unshared = profile.unshared.as_ref();
    unshared.map_or_else(Arc::default, |one| Shares::given(one.sources.clone()))
}

/// Puts the disk in that the guest may write to, if it is to have one.
async fn scratch(profile: &Profile, slots: &DiskSlots) -> Result<Option<u8>> {
    let unshared = profile.unshared.as_ref();
    let Some(scratch) = unshared.and_then(|one| one.scratch.as_ref()) else {
        return Ok(None);
    };
    let file = scratch_file(&scratch.directory, scratch.size)?;
    slots.attach_files(false, &[file]).await.map(Some)
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

/// What the pod's manifest calls a container, as CRI tells it.
fn manifest_name(config: &ContainerConfig) -> String {
    const NAME: &str = "io.kubernetes.cri.container-name";
    let annotations = config.spec.annotations().as_ref();
    let told = annotations.and_then(|all| all.get(NAME));
    told.unwrap_or(&config.id).clone()
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
            compares: self.shares.are_given(),
        };
        let translated = self
            .shares
            .translate(&config, pod, &self.slots, &self.guest)
            .await;
        let (spec, shared) = translated.map_err(|why| why.context(doing()))?;
        if let Some(score) = oom_score_adj(&config.spec) {
            self.guest.machine.raise_oom_score(score.into())?;
        }
        let new = NewContainer {
            own_pids: owns_its_processes(&spec).then(|| self.own_pids.clone()),
            name: manifest_name(&config),
            id: config.id,
            spec,
            stdio: config.stdio,
            shared,
        };
        let container = GuestContainer::create(&self.guest, self.size, new).await?;
        Ok(Arc::new(container))
    }

    fn pid(&self) -> Option<u32> {
        Some(self.guest.machine.pid())
    }

    async fn ping(&self) -> Result<()> {
        clock::ping(&self.guest)
            .await
            .map_err(|why| why.context(format!("ping the guest of pod {}", self.record.pod)))
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
        lock(&self.uids).take();
        Ok(())
    }
}
