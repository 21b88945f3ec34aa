//! Where the pod's containers write: their roots' upper layers, and directories that are empty at first.
//!
//! The host may give a disk for it, of which nothing is believed. Each sector is encrypted and has a tag
//! beside it, by a key that is made here, is nowhere else and ends with the guest. So what the host reads
//! tells it nothing, and what it changes, moves, or brings of another pod is found when it is read. What was
//! at the same place earlier in the same run is not told from what is there now.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use trefoil_agent_protocol::service::ScratchDisk;
use trefoil_core::{Context, Error, Result};
use trefoil_mapper::{Crypt, Device, Integrity, Key, Target};
use trefoil_os::detached::{self, Tree};

use super::corruption::Corruption;
use super::ext4;
use super::mounted::Mounted;
use crate::disks::Bound;

/// Where it is mounted.
const PLACE: &str = "/run/trefoil/scratch";

/// What people are told when it is not what was written there.
const NAME: &str = "scratch disk";

/// How the mount is, whatever is mounted.
const ATTRIBUTES: [&str; 2] = ["nosuid", "nodev"];

/// A disk has from so many to so many bytes.
const LEAST: u64 = 64 << 20;
const MOST: u64 = 1 << 40;

/// How much of a disk the kernel looks at to see whether tags were kept on it before, in bytes.
const BEGINNING: usize = 4096;

/// A filesystem of the pod's, gone when this is dropped.
pub(crate) struct Scratch {
    /// Gone before what it is of.
    mounted: Mounted,
    _disk: Option<EncryptedDisk>,
}

/// A disk of the host's that only this guest can read, from the top down.
struct EncryptedDisk {
    watched: Watched,
    crypt: Device,
    _integrity: Device,
    _disk: Bound,
}

/// Devices that somebody listens for complaints about.
struct Watched {
    names: Vec<String>,
    corruption: Arc<Corruption>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        for name in &self.names {
            self.corruption.forget(name);
        }
    }
}

impl Scratch {
    /// Makes it: on the disk that the host has given, or in the guest's memory where it has given none.
    ///
    /// # Errors
    /// What is wrong with the disk; what the kernel says. Nothing is left then.
    pub(super) fn make(disk: Option<&ScratchDisk>, corruption: &Arc<Corruption>) -> Result<Self> {
        let (tree, disk) = match disk {
            None => {
                let options = [&ATTRIBUTES[..], &["mode=0755"]].concat();
                (detached::mount("tmpfs", "scratch", &options)?, None)
            }
            Some(disk) => {
                let doing = || format!("encrypt the scratch disk, device {}", disk.device);
                let made = EncryptedDisk::make(disk.device, corruption);
                let (tree, disk) = made.map_err(|why| why.context(doing()))?;
                (tree, Some(disk))
            }
        };
        Ok(Self {
            mounted: Mounted::at(PathBuf::from(PLACE), tree)?,
            _disk: disk,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.mounted.path()
    }
}

impl EncryptedDisk {
    /// Of the host's device of this number, with a new filesystem.
    fn make(device: u32, corruption: &Arc<Corruption>) -> Result<(Tree, Self)> {
        let disk = Bound::find(device)?;
        let size = emptied(&disk.path())?;
        let integrity = Integrity {
            device: disk.path(),
            size,
        };
        let usable = integrity.usable();
        let integrity = Device::create("scratch.tags", &Target::Integrity(integrity))?;
        let crypt = Crypt {
            device: integrity.path(),
            size: usable,
            key: Key::random()?,
        };
        let crypt = Device::create("scratch", &Target::Crypt(crypt))?;
        let places = [disk.path(), integrity.path(), crypt.path()];
        let made = Self {
            watched: Watched::new(&places, corruption),
            crypt,
            _integrity: integrity,
            _disk: disk,
        };
        match made.filesystem(usable) {
            Ok(tree) => Ok((tree, made)),
            Err(why) => Err(made.watched.complaint().unwrap_or(why)),
        }
    }

    fn filesystem(&self, size: u64) -> Result<Tree> {
        let path = self.crypt.path();
        let doing = || format!("make a filesystem on {}", path.display());
        let device = File::options().write(true).open(&path).context(doing)?;
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty())
            .map_err(std::io::Error::from)
            .context(doing)?;
        ext4::format(&device, size, random).map_err(|why| why.context(doing()))?;
        drop(device);
        let options = [&ATTRIBUTES[..], &ext4::OPTIONS].concat();
        Ok(detached::mount(
            "ext4",
            &path.display().to_string(),
            &options,
        )?)
    }
}

impl Watched {
    fn new(places: &[PathBuf], corruption: &Arc<Corruption>) -> Self {
        let names = places
            .iter()
            .filter_map(|place| place.file_name()?.to_str());
        let names: Vec<_> = names.map(str::to_owned).collect();
        for name in &names {
            corruption.watch(name, NAME.to_owned());
        }
        Self {
            names,
            corruption: corruption.clone(),
        }
    }

    /// What the kernel has said of one of them.
    fn complaint(&self) -> Option<Error> {
        let mut names = self.names.iter();
        let found = names.find_map(|name| self.corruption.look(name))?;
        Some(Error::precondition(format!("{NAME}: {found}")))
    }
}

/// Empties a disk as far as the kernel looks at what is on it; answers with its size in bytes. Closing it waits
/// until that is written: nobody else has it open.
fn emptied(path: &Path) -> Result<u64> {
    let doing = || format!("empty {}", path.display());
    let mut disk = File::options().write(true).open(path).context(doing)?;
    let size = disk.seek(SeekFrom::End(0)).context(doing)?;
    check(size)?;
    disk.write_all_at(&[0; BEGINNING], 0).context(doing)?;
    Ok(size)
}

fn check(size: u64) -> Result<()> {
    match (LEAST..=MOST).contains(&size) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "it has {size} bytes; a scratch disk has from {LEAST} to {MOST}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_a_size_that_can_be_is_emptied() {
        let disk = tempfile::NamedTempFile::new().expect("a file");
        for size in [0, LEAST - 512, MOST + 512] {
            disk.as_file().set_len(size).expect("its length");
            let why = emptied(disk.path()).expect_err("too small or too large");
            assert!(why.to_string().contains(&format!("{size} bytes")), "{why}");
        }
        disk.as_file().set_len(LEAST).expect("its length");
        disk.as_file()
            .write_all_at(&[0xa5; 2 * BEGINNING], 0)
            .expect("what another has left");
        assert_eq!(emptied(disk.path()).expect("emptied"), LEAST);
        let mut found = [1; BEGINNING];
        disk.as_file().read_exact_at(&mut found, 0).expect("read");
        assert_eq!(found, [0; BEGINNING]);
    }

    #[test]
    fn any_disk_that_is_taken_has_room_for_a_filesystem() {
        for size in [LEAST, LEAST + 512, (8 << 30) + 512, MOST] {
            let device = PathBuf::new();
            let usable = Integrity { device, size }.usable();
            assert!((ext4::LEAST..=ext4::MOST).contains(&usable), "{usable}");
        }
    }
}
