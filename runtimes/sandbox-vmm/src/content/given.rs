//! What a guest is given that the host shares nothing with: disks of layers, and the bytes of files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use trefoil_agent_protocol::service::{File, PutFilesRequest};
use trefoil_core::{ContainerConfig, Result};
use trefoil_os::apart;

use crate::content::disks::{DiskSlots, Disks};
use crate::content::sources::{GuestVolume, HostVolume, Sources};
use crate::content::watch::{self, Watch};
use crate::guest::Guest;
use crate::guest::agent::{answer, making};
use crate::specification::Volume;

/// What is given to a pod's guest.
#[derive(Debug)]
pub(crate) struct Given {
    sources: Arc<dyn Sources>,
    /// The volumes of files that the guest has, by where they are on the host: locked while one is read and
    /// sent, so that each is sent once and an older state never after a newer one.
    files: Mutex<HashMap<PathBuf, Files>>,
}

/// A volume of files that the guest has.
#[derive(Debug)]
struct Files {
    /// What a mount's source calls it.
    source: String,
    /// What tells the guest of its changes, as long as the pod lives.
    _watch: Option<Watch>,
}

impl Given {
    /// Nothing yet.
    pub fn new(sources: Arc<dyn Sources>) -> Arc<Self> {
        Arc::new(Self {
            sources,
            files: Mutex::default(),
        })
    }

    /// The disk of a container's layers.
    pub async fn root(&self, config: &ContainerConfig, slots: &Arc<DiskSlots>) -> Result<Disks> {
        let layers = self.sources.layers(&config.rootfs).await?;
        slots.attach_layers(layers).await
    }

    /// Gives the guest a volume, unless it has it; answers with what a mount's source calls it.
    pub async fn volume(
        self: &Arc<Self>,
        pod: &str,
        volume: &Volume,
        guest: &Arc<Guest>,
    ) -> Result<String> {
        let mut known = self.files.lock().await;
        if let Some(files) = known.get(&volume.path) {
            return Ok(files.source.clone());
        }
        // From before it is read: nothing changes unseen.
        let watch = self.watch(pod, volume, guest)?;
        let found = self.look(pod, volume).await?;
        let source = found.source();
        if let GuestVolume::Files(name, files) = found {
            put(guest, &name, files).await?;
            let source = source.clone();
            let files = Files {
                source,
                _watch: watch,
            };
            known.insert(volume.path.clone(), files);
        }
        Ok(source)
    }

    /// Has the guest hear of changes, if the kubelet would make them.
    fn watch(
        self: &Arc<Self>,
        pod: &str,
        volume: &Volume,
        guest: &Arc<Guest>,
    ) -> Result<Option<Watch>> {
        if !watch::is_swapped(&volume.path) {
            return Ok(None);
        }
        let (given, guest) = (Arc::downgrade(self), Arc::downgrade(guest));
        let (pod, of) = (pod.to_owned(), volume.clone());
        let tell = move || {
            let (given, guest) = (given.clone(), guest.clone());
            let (pod, of) = (pod.clone(), of.clone());
            async move {
                let (Some(given), Some(guest)) = (given.upgrade(), guest.upgrade()) else {
                    return;
                };
                if let Err(why) = given.again(&pod, &of, &guest).await {
                    log::warn!("{why}");
                }
            }
        };
        Watch::start(&volume.path, tell).map(Some)
    }

    /// Gives the guest a volume that has changed.
    async fn again(&self, pod: &str, volume: &Volume, guest: &Guest) -> Result<()> {
        let _known = self.files.lock().await;
        match self.look(pod, volume).await? {
            GuestVolume::Files(name, files) => put(guest, &name, files).await,
            _ => Ok(()),
        }
    }

    /// Reads what a volume is now.
    async fn look(&self, pod: &str, volume: &Volume) -> Result<GuestVolume> {
        let sources = self.sources.clone();
        let (pod, volume) = (pod.to_owned(), volume.clone());
        let look = move || {
            sources.volume(HostVolume {
                path: &volume.path,
                pod: &pod,
                read_only: volume.read_only,
            })
        };
        apart("volumes", look).await
    }
}

async fn put(guest: &Guest, name: &str, files: Vec<File>) -> Result<()> {
    let request = PutFilesRequest {
        volume: name.to_owned(),
        files,
        ..Default::default()
    };
    let put = guest.agent.client.put_files(making(), &request);
    answer(|| format!("give the guest the files of volume {name}"), put)
        .await
        .map(drop)
}

/// Where a scratch disk's file is, without a name: it goes with its last descriptor.
pub(crate) fn scratch_file(directory: &Path, size: u64) -> Result<std::fs::File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    use trefoil_core::Context;

    let doing = || format!("make a scratch disk in {}", directory.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .context(doing)?;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory)
        .context(doing)?;
    file.set_len(size).context(doing)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::Duration;

    use async_trait::async_trait;
    use trefoil_core::{Error, Mount};

    use super::*;
    use crate::content::sources::LayerDisk;
    use crate::testing::guest;

    /// Volumes, each with the one file `key`.
    #[derive(Debug)]
    struct Keys;

    #[async_trait]
    impl Sources for Keys {
        async fn layers(&self, _: &[Mount]) -> Result<LayerDisk> {
            Err(Error::invalid("there are none"))
        }

        fn volume(&self, volume: HostVolume<'_>) -> Result<GuestVolume> {
            let file = File {
                path: "key".into(),
                contents: fs::read(volume.path.join("key")).expect("a key"),
                ..Default::default()
            };
            Ok(GuestVolume::Files("conf".into(), vec![file]))
        }
    }

    /// A volume as the kubelet lays it out.
    fn volume(at: &Path) -> Volume {
        fs::create_dir(at.join("..1")).expect("a version");
        fs::write(at.join("..1/key"), "one").expect("a key");
        symlink("..1", at.join("..data")).expect("a link");
        symlink("..data/key", at.join("key")).expect("a link");
        Volume {
            path: at.to_owned(),
            submounts: false,
            read_only: true,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_volume_of_two_containers_is_sent_once() {
        let (guest, _gate, fake, _server) = guest().await;
        let scratch = tempfile::tempdir().expect("a directory");
        let (given, volume) = (Given::new(Arc::new(Keys)), volume(scratch.path()));
        let of_one = || given.volume("p", &volume, &guest);
        let (first, second) = tokio::join!(of_one(), of_one());
        for one in [first, second, of_one().await] {
            assert_eq!(one.expect("given"), "files:conf");
        }
        assert_eq!(*fake.asked.lock().expect("lock"), ["put conf: one"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_change_while_a_volume_is_sent_reaches_the_guest_last() {
        let (guest, _gate, fake, _server) = guest().await;
        let scratch = tempfile::tempdir().expect("a directory");
        let (given, volume) = (Given::new(Arc::new(Keys)), volume(scratch.path()));
        let change = async {
            while fake.asked.lock().expect("lock").is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let at = |name: &str| scratch.path().join(name);
            fs::create_dir(at("..2")).expect("a version");
            fs::write(at("..2/key"), "two").expect("a key");
            symlink("..2", at("..data_tmp")).expect("a link");
            fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        };
        let (sent, ()) = tokio::join!(given.volume("p", &volume, &guest), change);
        sent.expect("given");
        let heard = async {
            while fake.asked.lock().expect("lock").len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), heard).await;
        heard.expect("the guest hears of the change");
        let asked = fake.asked.lock().expect("lock").clone();
        assert_eq!(asked, ["put conf: one", "put conf: two"]);
    }

    #[test]
    fn a_scratch_disk_takes_nothing_and_leaves_nothing() {
        let state = tempfile::tempdir().expect("a directory");
        let directory = state.path().join("scratch");
        let file = scratch_file(&directory, 8 << 30).expect("a file");
        let found = file.metadata().expect("it is there");
        assert_eq!(
            (found.len(), found.blocks(), found.nlink()),
            (8 << 30, 0, 0)
        );
        assert_eq!(found.mode() & 0o777, 0o600);
        let mut names = std::fs::read_dir(&directory).expect("it was made");
        assert!(
            names.next().is_none(),
            "a pod that is killed would leave it"
        );
        let why = scratch_file(std::path::Path::new("/dev/null"), 1).expect_err("no directory");
        assert!(
            why.to_string().contains("a scratch disk in /dev/null"),
            "{why}"
        );
    }
}
