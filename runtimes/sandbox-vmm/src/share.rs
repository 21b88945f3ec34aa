//! What the host shares with a pod's guest: the containers' root filesystems and volumes.
//!
//! What several containers have is shared once, so that in the guest it is one file for all of them:
//! what one writes the other sees. Of which volumes that is true, the server's parent side finds out
//! ([`trefoil_files::parent`]).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use tokio::sync::Mutex;
use trefoil_agent_protocol::{AGENT_SHARE, COPY_SOURCE, SHARE_SOURCE, service};
use trefoil_cgroups::Cgroup;
use trefoil_core::{ContainerConfig, ErrorKind, Result};
use trefoil_files::parent::{self, Jail, Server};
use trefoil_files::tree::{Changes, Source, Tree};
use trefoil_os::apart;
use trefoil_vmm::process::Start;

use crate::disks::{Disks, Places};
use crate::guest::Guest;
use crate::identity::Identity;
use crate::machine::Embryo;
use crate::parts::FILES;
use crate::rootfs::{self, Rootfs};
use crate::runtime::Settings;
use crate::size::Size;
use crate::specification::{self, Pod, Volume};
use crate::watch::{self, Watch};

/// How long a killed server may take to be gone. It takes longer only where a disk hangs.
const DYING: Duration = Duration::from_secs(2);

/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// What a pod shares.
#[derive(Debug)]
pub(crate) struct Shares {
    server: Arc<Server>,
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
    volumes: Vec<Got>,
}

/// A volume that a container has.
#[derive(Debug)]
struct Got {
    /// What the guest knows it by.
    name: String,
    /// The guest has a copy, and is told of changes.
    copied: bool,
}

impl Got {
    /// How a mount's source names it.
    fn source(&self) -> String {
        let prefix = match self.copied {
            true => COPY_SOURCE,
            false => SHARE_SOURCE,
        };
        format!("{prefix}{}", self.name)
    }
}

impl Shares {
    /// Starts the pod's file server, in its cgroup: what shares, and what the machine is to be handed.
    pub fn start(
        pod: &str,
        settings: &Settings,
        embryo: &Embryo,
        identity: &Identity,
        size: Size,
        cgroup: &Cgroup,
    ) -> Result<(Arc<Self>, OwnedFd)> {
        let start = Start {
            program: None,
            arguments: &[FILES, pod],
            log: embryo.log(),
            cgroups: &cgroup.directories(),
            oom_score_adj: None,
        };
        let jail = Jail {
            uid: identity.files,
            gid: identity.files,
            guest_mib: size.memory,
            flush: settings.flush,
        };
        let (server, connection) = parent::start(&start, &jail)?;
        let shares = Self {
            server: Arc::new(server),
            watched: Mutex::default(),
        };
        Ok((Arc::new(shares), connection.into()))
    }

    /// The pod's file server.
    pub fn server(&self) -> Arc<Server> {
        self.server.clone()
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
        self.server.share(AGENT_SHARE, tree).await
    }

    /// Translates a container's configuration and shares what of the host it names. When this fails
    /// nothing is shared that was not before.
    pub async fn translate(
        self: &Arc<Self>,
        config: &ContainerConfig,
        pod: Pod<'_>,
        places: &Arc<Places>,
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
            .share_all(&mut shared, &wanted, config, places, guest)
            .await;
        let translated = outcome.and_then(|()| {
            let got = &shared.held.get_mut().volumes;
            specification::translate(&config.id, &config.spec, pod, &mut |volume| {
                // Known by now: the configuration asks for the same in the same order.
                let known = wanted.iter().position(|one| *one == volume);
                let known = known.and_then(|known| got.get(known));
                known.map(Got::source).unwrap_or_default()
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
        places: &Arc<Places>,
        guest: &Arc<Guest>,
    ) -> Result<()> {
        let held = shared.held.get_mut();
        match rootfs::of(&config.rootfs, &config.bundle)? {
            Rootfs::Shared(tree) => {
                self.server.share(&shared.rootfs, tree).await?;
                held.rootfs = true;
            }
            Rootfs::Disks(images) => shared.disks = Some(places.attach(&images).await?),
        }
        for volume in wanted {
            let name = self.server.share_volume(tree(volume)).await?;
            let path = volume.path.clone();
            let look = move || -> Result<bool> { Ok(watch::is_swapped(&path)) };
            let copied = volume.read_only && apart("volumes", look).await?;
            held.volumes.push(Got {
                name: name.clone(),
                copied: false,
            });
            if copied {
                self.watch(name, volume, guest).await?;
                // Not before: others may have it watched by then.
                if let Some(got) = held.volumes.last_mut() {
                    got.copied = true;
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
        let watch = Watch::start(&volume.path, name.clone(), guest)?;
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
        self.server.kill();
        let begun = Instant::now();
        while matches!(self.server.ended(), Ok(None)) && begun.elapsed() < DYING {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn unshare(&self, name: &str) -> Result<()> {
        match self.server.unshare(name).await {
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
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
        let mut held = self.held.lock().await;
        if matches!(shares.server.ended(), Ok(Some(_))) {
            *held = Held::default();
            return Ok(());
        }
        if held.rootfs {
            shares.unshare(&self.rootfs).await?;
            held.rootfs = false;
        }
        while let Some(volume) = held.volumes.pop() {
            if volume.copied {
                shares.unwatch(&volume.name).await;
            }
            shares.server.unshare_volume(&volume.name).await?;
        }
        Ok(())
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
