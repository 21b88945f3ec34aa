//! The slots that a machine has for disks, and what is in them.
//!
//! A disk has no name that the host's paths could be told from: guest and host call it by the number of
//! its device.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use trefoil_agent_protocol::service::{Disk, Filesystem, Rootfs};
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_os::lock;
use trefoil_vmm::control::Attach;
use trefoil_vmm::devices::block::MOST_PARTS;

use crate::content::rootfs::{Image, Images};
use crate::content::sources::LayerDisk;
use crate::machine::Machine;
use crate::machine::profile::LONGEST_DISK;

/// What tells layers from others: device and inode of each file.
type Identity = Vec<(u64, u64)>;

/// A machine's slots for disks.
pub(crate) struct DiskSlots {
    machine: Arc<Machine>,
    /// Those that are taken.
    taken: Mutex<BTreeSet<u8>>,
    /// Disks of layers, by what is on them: each for so many containers.
    layers: tokio::sync::Mutex<HashMap<Identity, (Disk, u32)>>,
}

/// Disks that a guest has.
pub(crate) struct Disks {
    /// Gone with the pod, and then nothing has to be taken out.
    slots: Weak<DiskSlots>,
    layers: Option<Disk>,
    writable: Option<Disk>,
    /// Layers that the guest verifies, and what they are known by.
    verified: Option<(Identity, Disk)>,
    /// Whether those have been left.
    left: AtomicBool,
    /// Those that are there still.
    held: tokio::sync::Mutex<Vec<u8>>,
}

impl DiskSlots {
    /// Those of a machine, all of them empty.
    pub fn new(machine: Arc<Machine>) -> Arc<Self> {
        Arc::new(Self {
            machine,
            taken: Mutex::default(),
            layers: tokio::sync::Mutex::default(),
        })
    }

    /// Puts the disk of an image's layers in, if it is not there for another container.
    pub async fn attach_layers(self: &Arc<Self>, image: LayerDisk) -> Result<Disks> {
        let mut layers = self.layers.lock().await;
        let disk = match layers.get_mut(&image.identity) {
            Some((disk, users)) => {
                *users += 1;
                disk.clone()
            }
            None => {
                let attached = self.attach_files(true, &image.files).await;
                let device = attached.map_err(|why| why.context("give the guest its layers"))?;
                let disk = Disk {
                    device: device.into(),
                    filesystem: Filesystem::EROFS.into(),
                    parts: image.parts,
                    ..Default::default()
                };
                layers.insert(image.identity.clone(), (disk.clone(), 1));
                disk
            }
        };
        Ok(Disks {
            verified: Some((image.identity, disk)),
            ..self.none()
        })
    }

    /// Puts a disk of these files in; answers with its device.
    pub async fn attach_files(&self, read_only: bool, files: &[File]) -> Result<u8> {
        let device = self.take()?;
        let wanted = Attach {
            device,
            read_only,
            serial: format!("trefoil-{device}"),
        };
        let attached = self.machine.attach(wanted, files).await;
        attached.inspect_err(|_| self.give_back(device))?;
        Ok(device)
    }

    fn none(self: &Arc<Self>) -> Disks {
        Disks {
            slots: Arc::downgrade(self),
            layers: None,
            writable: None,
            verified: None,
            left: AtomicBool::new(false),
            held: tokio::sync::Mutex::default(),
        }
    }

    /// One container less has the layers.
    async fn leave_layers(&self, identity: &Identity) -> Result<()> {
        let mut layers = self.layers.lock().await;
        let Some((disk, users)) = layers.get_mut(identity) else {
            return Ok(());
        };
        if *users > 1 {
            *users -= 1;
            return Ok(());
        }
        let device = u8::try_from(disk.device).unwrap_or(u8::MAX);
        self.detach(device).await?;
        layers.remove(identity);
        Ok(())
    }

    /// Takes a disk out, if the machine runs still.
    async fn detach(&self, device: u8) -> Result<()> {
        if self.machine.end().is_none()
            && let Err(why) = self.machine.detach(device).await
            && self.machine.end().is_none()
        {
            return Err(why);
        }
        self.give_back(device);
        Ok(())
    }

    /// Puts a root's disks in. When this fails none is there.
    pub async fn attach(self: &Arc<Self>, images: &Images) -> Result<Disks> {
        let mut disks = self.none();
        let outcome = self.attach_all(images, &mut disks).await;
        if let Err(why) = outcome {
            if let Err(and) = disks.detach().await {
                log::warn!("{and}");
            }
            return Err(why.context("give the guest its disks"));
        }
        Ok(disks)
    }

    async fn attach_all(&self, images: &Images, disks: &mut Disks) -> Result<()> {
        if let Some(image) = &images.layers {
            disks.layers = Some(self.attach_one(image, false, disks.held.get_mut()).await?);
        }
        if let Some(image) = &images.writable {
            disks.writable = Some(self.attach_one(image, true, disks.held.get_mut()).await?);
        }
        Ok(())
    }

    async fn attach_one(&self, image: &Image, writable: bool, held: &mut Vec<u8>) -> Result<Disk> {
        if image.paths.len() > MOST_PARTS {
            let count = image.paths.len();
            return Err(Error::new(
                ErrorKind::Unimplemented,
                format!("{count} layers are more than the {MOST_PARTS} that a guest can have"),
            ));
        }
        let mut files = Vec::new();
        let mut parts = Vec::new();
        for path in &image.paths {
            let (file, length) = open(path, writable)?;
            files.push(file);
            parts.push(length);
        }
        let device = self.attach_files(!writable, &files).await?;
        held.push(device);
        Ok(Disk {
            device: device.into(),
            filesystem: image.filesystem.into(),
            parts,
            ..Default::default()
        })
    }

    fn take(&self) -> Result<u8> {
        let mut taken = lock(&self.taken);
        let slots = self.machine.slots();
        match slots.iter().find(|&&device| taken.insert(device)) {
            Some(&device) => Ok(device),
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "all {} slots that the machine has for disks are taken",
                    slots.len()
                ),
            )),
        }
    }

    fn give_back(&self, device: u8) {
        lock(&self.taken).remove(&device);
    }
}

impl Disks {
    /// As the agent is to be told.
    pub fn told(&self) -> Rootfs {
        Rootfs {
            layers: self.layers.clone().into(),
            writable: self.writable.clone().into(),
            verified: self.verified.as_ref().map(|(_, disk)| disk.clone()).into(),
            ..Default::default()
        }
    }

    /// Takes them out, whether the guest has let go of them or not. May be called again after a failure;
    /// once the machine has ended there is nothing to take out.
    pub async fn detach(&self) -> Result<()> {
        let mut held = self.held.lock().await;
        let Some(slots) = self.slots.upgrade() else {
            return Ok(());
        };
        while let Some(&device) = held.last() {
            slots.detach(device).await?;
            held.pop();
        }
        match &self.verified {
            Some((identity, _)) if !self.left.swap(true, Ordering::Relaxed) => {
                let left = slots.leave_layers(identity).await;
                left.inspect_err(|_| self.left.store(false, Ordering::Relaxed))
            }
            _ => Ok(()),
        }
    }
}

/// Opens a file or a block device, and tells how long it is.
fn open(path: &Path, writable: bool) -> Result<(File, u64)> {
    let doing = || format!("open {} as a disk", path.display());
    let mut file = File::options()
        .read(true)
        .write(writable)
        .open(path)
        .context(doing)?;
    let kind = file.metadata().context(doing)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::invalid("it is neither a file nor a block device").context(doing()));
    }
    let length = file.seek(SeekFrom::End(0)).context(doing)?;
    if writable && kind.is_file() && length > LONGEST_DISK {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            format!(
                "its {length} bytes are more than the {LONGEST_DISK} of a file that is written"
            ),
        )
        .context(doing()));
    }
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SLOTS, machine, machine_that_answers};

    const DONE: &str = r#"{"answer":{"done":{"paused":false}}}"#;

    fn image(filesystem: Filesystem, files: &[&tempfile::NamedTempFile]) -> Option<Image> {
        Some(Image {
            filesystem,
            paths: files.iter().map(|file| file.path().into()).collect(),
        })
    }

    fn file(length: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(length).expect("length");
        file
    }

    #[tokio::test(flavor = "current_thread")]
    async fn each_disk_has_a_slot_until_it_is_taken_out() {
        let (machine, _gate) = machine_that_answers(DONE);
        let slots = DiskSlots::new(machine);
        let (one, other, written) = (file(4096), file(512), file(8192));
        let both = Images {
            layers: image(Filesystem::EROFS, &[&one, &other]),
            writable: image(Filesystem::EXT4, &[&written]),
        };
        let first = slots.attach(&both).await.expect("attach");
        let told = first.told();
        assert_eq!((told.layers.device, told.writable.device), (3, 4));
        assert_eq!(told.layers.parts, [4096, 512]);
        assert_eq!(told.writable.parts, [8192]);
        assert_eq!(told.layers.filesystem, Filesystem::EROFS.into());
        assert!(told.share.is_empty());

        let mut more = Vec::new();
        for _ in 1..SLOTS / 2 {
            more.push(slots.attach(&both).await.expect("attach"));
        }
        let why = slots.attach(&both).await.map(drop).expect_err("no slot");
        assert_eq!(why.kind(), ErrorKind::Unavailable);
        assert!(why.to_string().contains("all 8 slots"), "{why}");

        first.detach().await.expect("detach");
        first.detach().await.expect("nothing is left to do");
        let one_disk = Images {
            layers: both.layers.clone(),
            writable: None,
        };
        let again = slots.attach(&one_disk).await.expect("attach");
        assert_eq!(again.told().layers.device, 3);
        // One slot is left, which is not kept by who needs two.
        slots.attach(&both).await.map(drop).expect_err("no slot");
        let last = slots.attach(&one_disk).await.expect("attach");
        assert_eq!(last.told().layers.device, 4);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_disk_that_the_vmm_refuses_has_no_slot() {
        let (machine, _gate) = machine_that_answers(r#"{"answer":{"refused":"it is too odd"}}"#);
        let slots = DiskSlots::new(machine);
        let odd = file(513);
        let images = Images {
            layers: image(Filesystem::EROFS, &[&odd]),
            writable: None,
        };
        for _ in 0..=SLOTS {
            let why = slots.attach(&images).await.map(drop).expect_err("refused");
            assert_eq!(
                why.to_string(),
                "give the guest its disks: put a disk into device 3 of the machine: it is too odd"
            );
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_vmm_that_does_not_answer_is_killed() {
        let (machine, _gate) = machine();
        let slots = DiskSlots::new(machine.clone());
        let layer = file(512);
        let images = Images {
            layers: image(Filesystem::EROFS, &[&layer]),
            writable: None,
        };
        let why = slots.attach(&images).await.map(drop).expect_err("silence");
        assert!(
            why.to_string().contains("has not answered for 10s"),
            "{why}"
        );
        let ended = machine.ended().await;
        assert!(ended.contains("has not answered"), "{ended}");
    }

    #[test]
    fn only_what_holds_a_filesystem_is_opened() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(4096).expect("length");
        let (_, length) = open(file.path(), true).expect("a file");
        assert_eq!(length, 4096);
        let why = open(Path::new("/dev/null"), false).expect_err("no disk");
        assert!(why.to_string().contains("neither a file"), "{why}");
        let why = open(Path::new("/nonexistent"), false).expect_err("nothing");
        assert!(why.to_string().contains("open /nonexistent"), "{why}");
        file.as_file().set_len(LONGEST_DISK + 512).expect("length");
        let why = open(file.path(), true).expect_err("too long");
        assert_eq!(why.kind(), ErrorKind::Unimplemented);
        open(file.path(), false).expect("to be read it may be any");
    }
}
