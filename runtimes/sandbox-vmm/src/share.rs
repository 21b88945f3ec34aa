//! What the host shares with a pod's guest: the containers' root filesystems and volumes.
//!
//! What several containers have is shared once, so that in the guest it is one file for all of them:
//! what one writes the other sees.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use tokio::sync::Mutex;
use trefoil_agent_protocol::{AGENT_SHARE, service};
use trefoil_core::{ContainerConfig, ErrorKind, Result};
use trefoil_files::parent::{self, Jail, Server};
use trefoil_files::tree::{Changes, Source, Tree};
use trefoil_runc::cgroup::Cgroup;
use trefoil_vmm::process::Start;

use crate::disks::{Disks, Places};
use crate::identity::Identity;
use crate::machine::Embryo;
use crate::parts::FILES;
use crate::rootfs::{self, Rootfs};
use crate::size::Size;
use crate::specification::{self, Pod, Volume};

/// How long a killed server may take to be gone. It takes longer only where a disk hangs.
const DYING: Duration = Duration::from_secs(2);

/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// What a pod shares.
#[derive(Debug)]
pub(crate) struct Shares {
    server: Server,
    /// Held until what a container needs is shared, so that another that needs the same waits.
    volumes: Mutex<Volumes>,
}

/// Volumes by what they are.
#[derive(Debug, Default)]
struct Volumes {
    shared: HashMap<Volume, Use>,
    named: u64,
}

#[derive(Debug)]
struct Use {
    name: String,
    containers: u32,
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
    volumes: Vec<Volume>,
}

impl Shares {
    /// Starts the pod's file server, in its cgroup: what shares, and what the machine is to be handed.
    pub fn start(
        pod: &str,
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
        };
        let (server, connection) = parent::start(&start, &jail)?;
        let shares = Self {
            server,
            volumes: Mutex::default(),
        };
        Ok((Arc::new(shares), connection.into()))
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
    ) -> Result<(Spec, Shared)> {
        let mut volumes = self.volumes.lock().await;
        let mut wanted = Vec::new();
        let spec = specification::translate(&config.id, &config.spec, pod, &mut |volume| {
            let name = volumes.name(&volume);
            if !wanted.contains(&volume) {
                wanted.push(volume);
            }
            name
        });
        let spec = match spec {
            Ok(spec) => spec,
            Err(why) => {
                volumes.forget_unused();
                return Err(why);
            }
        };
        let mut shared = Shared {
            shares: Arc::downgrade(self),
            rootfs: format!("rootfs.{}", config.id),
            disks: None,
            held: Mutex::default(),
        };
        let outcome = self
            .share_all(&mut volumes, &mut shared, wanted, config, places)
            .await;
        volumes.forget_unused();
        drop(volumes);
        if let Err(why) = outcome {
            if let Err(and) = shared.release().await {
                log::warn!("{and}");
            }
            return Err(why);
        }
        Ok((spec, shared))
    }

    async fn share_all(
        &self,
        volumes: &mut Volumes,
        shared: &mut Shared,
        wanted: Vec<Volume>,
        config: &ContainerConfig,
        places: &Arc<Places>,
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
            let Some(entry) = volumes.shared.get_mut(&volume) else {
                continue;
            };
            if entry.containers == 0 {
                self.server.share(&entry.name, tree(&volume)).await?;
            }
            entry.containers += 1;
            held.volumes.push(volume);
        }
        Ok(())
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

impl Volumes {
    /// The name of a volume, which is new if nobody has it yet.
    fn name(&mut self, volume: &Volume) -> String {
        let number = &mut self.named;
        let entry = self.shared.entry(volume.clone()).or_insert_with(|| {
            *number += 1;
            Use {
                name: format!("volume.{number}"),
                containers: 0,
            }
        });
        entry.name.clone()
    }

    fn forget_unused(&mut self) {
        self.shared.retain(|_, entry| entry.containers > 0);
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
        let mut volumes = shares.volumes.lock().await;
        let mut held = self.held.lock().await;
        if matches!(shares.server.ended(), Ok(Some(_))) {
            *held = Held::default();
            return Ok(());
        }
        if held.rootfs {
            shares.unshare(&self.rootfs).await?;
            held.rootfs = false;
        }
        while let Some(volume) = held.volumes.last() {
            if let Some(entry) = volumes.shared.get_mut(volume) {
                if entry.containers == 1 {
                    shares.unshare(&entry.name).await?;
                }
                entry.containers -= 1;
            }
            held.volumes.pop();
        }
        volumes.forget_unused();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(path: &str, read_only: bool) -> Volume {
        Volume {
            path: path.into(),
            submounts: true,
            read_only,
        }
    }

    #[test]
    fn what_is_the_same_has_one_name_and_no_name_comes_back() {
        let mut volumes = Volumes::default();
        let first = volumes.name(&volume("/a", false));
        assert_eq!(volumes.name(&volume("/a", false)), first);
        // A guest that may only read it can't be given what another may write.
        let read_only = volumes.name(&volume("/a", true));
        assert_ne!(read_only, first);
        let entry = volumes.shared.get_mut(&volume("/a", false));
        entry.expect("named").containers = 1;
        volumes.forget_unused();
        assert_eq!(volumes.name(&volume("/a", false)), first);
        let again = volumes.name(&volume("/a", true));
        assert!(again != read_only && again != first, "{again}");
    }
}
