//! What the host shares with a pod's guest: the containers' root filesystems and volumes.
//!
//! What several containers have is shared once, so that in the guest it is one file for all of them:
//! what one writes the other sees. Of which volumes that is true, the server's parent side finds out
//! ([`trefoil_files::parent`]).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use tokio::sync::Mutex;
use trefoil_agent_protocol::{AGENT_SHARE, COPY_SOURCE, SHARE_SOURCE, service};
use trefoil_cgroups::Cgroup;
use trefoil_core::{ContainerConfig, Error, ErrorKind, Result};
use trefoil_files::parent::{self, Jail, Server};
use trefoil_files::tree::{Changes, Source, Tree};
use trefoil_os::apart;
use trefoil_vmm::process::Start;

use crate::content::disks::{DiskSlots, Disks};
use crate::content::given::Given;
use crate::content::rootfs::{self, Rootfs};
use crate::content::sources::Sources;
use crate::content::watch::{self, Watch};
use crate::guest::Guest;
use crate::host::uids::UidAllocation;
use crate::machine::boot::{Files, UnlaunchedVmm};
use crate::machine::profile::FileServer;
use crate::machine::size::Size;
use crate::programs::FILES;
use crate::specification::{self, Pod, Volume};

/// How long a killed server may take to be gone. It takes longer only where a disk hangs.
const DYING: Duration = Duration::from_secs(2);

/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// What a pod shares: nothing if its machine has no file server.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    server: Option<Arc<Server>>,
    /// What the guest is given instead, if it believes nothing of the host.
    given: Option<Arc<Given>>,
    /// Those of which the guest has copies, by name.
    watched: Mutex<HashMap<String, Watched>>,
}

/// A volume that is watched, for so many containers.
#[derive(Debug)]
struct Watched {
    users: u32,
    _watch: Watch,
}

/// What one container has of the host.
pub(crate) struct Shared {
    /// Gone with the pod, and then there is nothing to take away.
    shares: Weak<Shares>,
    rootfs: String,
    /// Instead of the former, if the root is on disks.
    disks: Option<Disks>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    rootfs: bool,
    volumes: Vec<SharedVolume>,
}

/// A volume that a container has.
#[derive(Debug)]
struct SharedVolume {
    /// What the guest knows it by, and how it has it.
    name: String,
    kind: VolumeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VolumeKind {
    /// As the host has it.
    Shared,
    /// The guest has a copy, and is told of changes.
    Copied,
    /// It is the guest's own, and the name is all of the source.
    Given,
}

impl SharedVolume {
    /// How a mount's source names it.
    fn source(&self) -> String {
        let prefix = match self.kind {
            VolumeKind::Shared => SHARE_SOURCE,
            VolumeKind::Copied => COPY_SOURCE,
            VolumeKind::Given => "",
        };
        format!("{prefix}{}", self.name)
    }
}

impl Shares {
    /// Starts the pod's file server, in its cgroup: what shares, and what the machine is to have of it.
    pub fn start(
        pod: &str,
        kind: &FileServer,
        unlaunched: &UnlaunchedVmm,
        uids: &UidAllocation,
        size: Size,
        cgroup: &Cgroup,
    ) -> Result<(Arc<Self>, Files)> {
        let start = Start {
            program: None,
            arguments: &[FILES, pod],
            log: unlaunched.log(),
            cgroups: &cgroup.directories(),
            oom_score_adj: None,
        };
        let jail = Jail {
            uid: uids.files,
            gid: uids.files,
            guest_mib: size.memory,
            flush: kind.flush,
        };
        let (server, connection) = parent::start(&start, &jail)?;
        let server = Arc::new(server);
        let shares = Self {
            server: Some(server.clone()),
            ..Self::default()
        };
        let files = Files {
            server,
            connection: connection.into(),
        };
        Ok((Arc::new(shares), files))
    }

    /// Nothing: what the guest has is given to it.
    pub fn given(sources: Arc<dyn Sources>) -> Arc<Self> {
        Arc::new(Self {
            given: Some(Given::new(sources)),
            ..Self::default()
        })
    }

    /// Whether all that the guest has is given to it.
    pub fn are_given(&self) -> bool {
        self.given.is_some()
    }

    /// The pod's file server, if it has one.
    pub fn server(&self) -> Option<Arc<Server>> {
        self.server.clone()
    }

    /// The file server, which is to share this.
    fn server_of(&self, what: impl FnOnce() -> String) -> Result<&Server> {
        self.server.as_deref().ok_or_else(|| {
            let why = format!(
                "{} can't be had: the pod's machine has disks only, and shares nothing of the node's",
                what()
            );
            Error::new(ErrorKind::Unimplemented, why)
        })
    }

    /// Shares the agent's program, which the guest starts by its name. No container's is the same: those
    /// have a dot. The guest can't change it, whoever takes it over.
    pub async fn share_agent(&self, program: &Path) -> Result<()> {
        let tree = Tree {
            source: Source::Path {
                path: program.to_owned(),
                submounts: false,
            },
            read_only: true,
            // Another version is another file, as installers do it.
            changes: Changes::GuestOnly,
        };
        let server = self.server_of(|| program.display().to_string())?;
        server.share(AGENT_SHARE, tree).await
    }

    /// Translates a container's configuration and shares what of the host it names. When this fails
    /// nothing is shared that was not before.
    pub async fn translate(
        self: &Arc<Self>,
        config: &ContainerConfig,
        pod: Pod<'_>,
        slots: &Arc<DiskSlots>,
        guest: &Arc<Guest>,
    ) -> Result<(Spec, Shared)> {
        let mut wanted = Vec::new();
        specification::translate(&config.id, &config.spec, pod, &mut |volume| {
            if !wanted.contains(&volume) {
                wanted.push(volume);
            }
            String::new()
        })?;
        let mut shared = Shared {
            shares: Arc::downgrade(self),
            rootfs: format!("rootfs.{}", config.id),
            disks: None,
            held: Mutex::default(),
        };
        let outcome = self
            .share_all(&mut shared, &wanted, config, pod, slots, guest)
            .await;
        let translated = outcome.and_then(|()| {
            let got = &shared.held.get_mut().volumes;
            specification::translate(&config.id, &config.spec, pod, &mut |volume| {
                // Known by now: the configuration asks for the same in the same order.
                let known = wanted.iter().position(|one| *one == volume);
                let known = known.and_then(|known| got.get(known));
                known.map(SharedVolume::source).unwrap_or_default()
            })
        });
        match translated {
            Ok(spec) => Ok((spec, shared)),
            Err(why) => {
                if let Err(and) = shared.release().await {
                    log::warn!("{and}");
                }
                Err(why)
            }
        }
    }

    async fn share_all(
        &self,
        shared: &mut Shared,
        wanted: &[Volume],
        config: &ContainerConfig,
        pod: Pod<'_>,
        slots: &Arc<DiskSlots>,
        guest: &Arc<Guest>,
    ) -> Result<()> {
        let held = shared.held.get_mut();
        if let Some(given) = &self.given {
            for volume in wanted {
                held.volumes.push(SharedVolume {
                    name: given.volume(pod.id, volume, guest).await?,
                    kind: VolumeKind::Given,
                });
            }
            shared.disks = Some(given.root(config, slots).await?);
            return Ok(());
        }
        match rootfs::of(&config.rootfs, &config.bundle)? {
            Rootfs::Shared(tree) => {
                let server = self.server_of(|| format!("the root filesystem {}", tree.source))?;
                server.share(&shared.rootfs, tree).await?;
                held.rootfs = true;
            }
            Rootfs::Disks(images) => shared.disks = Some(slots.attach(&images).await?),
        }
        for volume in wanted {
            let server = self.server_of(|| format!("the volume {}", volume.path.display()))?;
            let name = server.share_volume(tree(volume)).await?;
            let path = volume.path.clone();
            let look = move || -> Result<bool> { Ok(watch::is_swapped(&path)) };
            let copied = volume.read_only && apart("volumes", look).await?;
            held.volumes.push(SharedVolume {
                name: name.clone(),
                kind: VolumeKind::Shared,
            });
            if copied {
                self.watch(name, volume, guest).await?;
                // Not before: others may have it watched by then.
                if let Some(got) = held.volumes.last_mut() {
                    got.kind = VolumeKind::Copied;
                }
            }
        }
        Ok(())
    }

    /// Has the guest hear of changes of a volume, as long as a container has it.
    async fn watch(&self, name: String, volume: &Volume, guest: &Arc<Guest>) -> Result<()> {
        let mut watched = self.watched.lock().await;
        if let Some(known) = watched.get_mut(&name) {
            known.users += 1;
            return Ok(());
        }
        let (told, guest) = (name.clone(), Arc::downgrade(guest));
        let tell = move || {
            let (told, guest) = (told.clone(), guest.clone());
            async move { watch::tell(&guest, &told).await }
        };
        let watch = Watch::start(&volume.path, tell)?;
        let first = Watched {
            users: 1,
            _watch: watch,
        };
        watched.insert(name, first);
        Ok(())
    }

    async fn unwatch(&self, name: &str) {
        let mut watched = self.watched.lock().await;
        if let Some(known) = watched.get_mut(name) {
            known.users = known.users.saturating_sub(1);
            if known.users == 0 {
                watched.remove(name);
            }
        }
    }

    /// Ends the server, and with it all that is shared.
    pub async fn stop(&self) {
        let Some(server) = &self.server else {
            return;
        };
        server.kill();
        let begun = Instant::now();
        while matches!(server.ended(), Ok(None)) && begun.elapsed() < DYING {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Shared {
    /// Of a container that has nothing of the host.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self {
            shares: Weak::new(),
            rootfs: "rootfs".into(),
            disks: None,
            held: Mutex::default(),
        }
    }

    /// The container's root filesystem, as the agent is to be told.
    pub fn rootfs(&self) -> service::Rootfs {
        match &self.disks {
            Some(disks) => disks.told(),
            None => service::Rootfs {
                share: self.rootfs.clone(),
                ..Default::default()
            },
        }
    }

    /// Takes away what no other container has. May be called again after a failure; once the server has
    /// ended there is nothing to take away.
    pub async fn release(&self) -> Result<()> {
        if let Some(disks) = &self.disks {
            disks.detach().await?;
        }
        let Some(shares) = self.shares.upgrade() else {
            return Ok(());
        };
        let Some(server) = &shares.server else {
            return Ok(());
        };
        let mut held = self.held.lock().await;
        if matches!(server.ended(), Ok(Some(_))) {
            *held = Held::default();
            return Ok(());
        }
        if held.rootfs {
            unshare(server, &self.rootfs).await?;
            held.rootfs = false;
        }
        while let Some(volume) = held.volumes.pop() {
            if volume.kind == VolumeKind::Copied {
                shares.unwatch(&volume.name).await;
            }
            server.unshare_volume(&volume.name).await?;
        }
        Ok(())
    }
}

/// Takes a tree away, if it is there.
async fn unshare(server: &Server, name: &str) -> Result<()> {
    match server.unshare(name).await {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn tree(volume: &Volume) -> Tree {
    Tree {
        source: Source::Path {
            path: volume.path.clone(),
            submounts: volume.submounts,
        },
        read_only: volume.read_only,
        changes: Changes::Anybody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guest;

    #[tokio::test(flavor = "current_thread")]
    async fn a_pod_without_a_file_server_shares_nothing_of_the_nodes() {
        let (guest, _gate, _fake, _server) = guest().await;
        let slots = DiskSlots::new(guest.machine.clone());
        let spec = r#"{
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"}
        }"#;
        let config = ContainerConfig {
            id: "c".into(),
            bundle: "/b".into(),
            spec: Arc::new(serde_json::from_str(spec).expect("specification")),
            rootfs: Vec::new(),
            stdio: trefoil_core::Stdio::default(),
            options: trefoil_core::RuntimeOptions::default(),
        };
        let pod = Pod {
            id: "p",
            pid: 1,
            lone: true,
            apart: false,
            compares: false,
        };
        let shares: Arc<Shares> = Arc::default();
        let translated = shares.translate(&config, pod, &slots, &guest).await;
        let why = translated.map(drop).expect_err("refused");
        assert_eq!(why.kind(), ErrorKind::Unimplemented);
        assert_eq!(
            why.to_string(),
            "the root filesystem /b/rootfs can't be had: the pod's machine has disks only, and shares \
             nothing of the node's"
        );
        shares.stop().await;
    }
}
