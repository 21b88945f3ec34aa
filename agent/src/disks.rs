//! Disks that the host puts where there was a place for one, and takes away again.
//!
//! The kernel met a device without a function there at boot. It is told to look again, and what there is
//! on the disk is given names: a disk of several filesystems gets a partition for each, by a call and not
//! by a table, since nothing is to be written on it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use trefoil_agent_protocol::service::{Disk, Filesystem};
use trefoil_core::{Context, Error, Result};
#[cfg(not(feature = "confidential"))]
use trefoil_os::detached;

/// Where drivers are told of devices.
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
/// Where devices are.
const DEVICES: &str = "/sys/bus/platform/devices";

/// No device has a number from here on.
const MOST_DEVICES: u32 = 32;
/// The most filesystems of a disk.
const MOST_PARTS: usize = 128;
/// What lengths are multiples of, in bytes.
const SECTOR: u64 = 512;

/// `_IO(0x12, 105)`: change partitions as the kernel knows them.
const BLKPG: libc::Ioctl = 0x1269;
/// Add one.
const ADD: libc::c_int = 1;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Change {
    op: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const Partition,
}

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    /// In bytes, from the disk's beginning.
    start: i64,
    /// In bytes.
    length: i64,
    number: libc::c_int,
    /// Not looked at.
    names: [u8; 128],
}

/// A disk that the kernel knows, of whatever content. Its driver leaves it when this is dropped; nothing may
/// be mounted of it by then.
pub(super) struct Bound {
    device: u32,
    /// What the kernel calls it.
    name: String,
}

/// A disk with filesystems that are told of.
pub(super) struct Driven {
    bound: Bound,
    #[cfg(not(feature = "confidential"))]
    mounted_as: (&'static str, &'static [&'static str]),
    /// What can be mounted, in order.
    parts: Vec<PathBuf>,
}

impl Bound {
    /// Has the kernel look at the disk of a device.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::InvalidArgument`] if there is no such device; what the kernel says.
    pub(super) fn find(device: u32) -> Result<Self> {
        let doing = || format!("find the disk of device {device}");
        if device >= MOST_DEVICES {
            let why = format!("there are less than {MOST_DEVICES} devices");
            return Err(Error::invalid(why).context(doing()));
        }
        tell("bind", device)?;
        // From here on it is undone by dropping.
        let mut bound = Self {
            device,
            name: String::new(),
        };
        bound.name = below(&Path::new(DEVICES).join(file_name(device)), "virtio")
            .and_then(|virtio| below(&virtio.join("block"), ""))
            .and_then(|block| Some(block.file_name()?.to_str()?.to_owned()))
            .ok_or_else(|| Error::precondition("there is none").context(doing()))?;
        Ok(bound)
    }

    /// All of the disk.
    pub(super) fn path(&self) -> PathBuf {
        format!("/dev/{}", self.name).into()
    }
}

impl Driven {
    /// Has the kernel look at a disk.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::InvalidArgument`] if the description is none; what the kernel says.
    pub(super) fn find(disk: &Disk, writable: bool) -> Result<Self> {
        #[cfg(not(feature = "confidential"))]
        let mounted_as = check(disk, writable)?;
        #[cfg(feature = "confidential")]
        check(disk, writable)?;
        // From here on it is undone by dropping.
        let mut driven = Self {
            bound: Bound::find(disk.device)?,
            #[cfg(not(feature = "confidential"))]
            mounted_as,
            parts: Vec::new(),
        };
        let (name, whole) = (&driven.bound.name, driven.bound.path());
        match disk.parts.as_slice() {
            [_] => driven.parts.push(whole),
            lengths => {
                let opened = File::open(&whole).context(|| format!("open {}", whole.display()))?;
                let mut start = 0;
                for (number, &length) in (1..).zip(lengths) {
                    add(&opened, number, start, length)
                        .context(|| format!("make partition {number} of {name}"))?;
                    driven.parts.push(format!("/dev/{name}{number}").into());
                    start += length;
                }
            }
        }
        Ok(driven)
    }

    /// How many filesystems there are.
    #[cfg(not(feature = "confidential"))]
    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// The device of one of them.
    #[cfg(feature = "confidential")]
    pub(super) fn part(&self, number: usize) -> Option<&Path> {
        self.parts.get(number).map(PathBuf::as_path)
    }

    /// Mounts one of them. Only what is mounted to be written can be.
    ///
    /// # Errors
    /// What the kernel says.
    #[cfg(not(feature = "confidential"))]
    pub(super) fn mount(&self, number: usize, writable: bool, place: &Path) -> Result<()> {
        let device = self.bound.device;
        let part = self.parts.get(number).ok_or_else(|| {
            Error::internal(format!("device {device} has no filesystem {number}"))
        })?;
        let (filesystem, options) = self.mounted_as;
        let mut options = options.to_vec();
        if !writable {
            options.push("ro");
        }
        let tree = detached::mount(filesystem, &part.display().to_string(), &options)?;
        Ok(tree.attach(place)?)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(why) = tell("unbind", self.device) {
            log::warn!("{why}");
        }
    }
}

/// What the description says, if it is one: the filesystem's name and how it is mounted.
fn check(disk: &Disk, writable: bool) -> Result<(&'static str, &'static [&'static str])> {
    let refused = |why: String| {
        Err(Error::invalid(format!(
            "the disk of device {}: {why}",
            disk.device
        )))
    };
    let most = match writable {
        true => 1,
        false => MOST_PARTS,
    };
    if disk.parts.is_empty() || disk.parts.len() > most {
        let count = disk.parts.len();
        return refused(format!(
            "it has {count} filesystems, and may have from 1 to {most}"
        ));
    }
    let mut sum: u64 = 0;
    for &length in &disk.parts {
        sum = sum.saturating_add(length);
        if length == 0 || !length.is_multiple_of(SECTOR) || i64::try_from(sum).is_err() {
            return refused(format!("a filesystem of {length} bytes can't be on it"));
        }
    }
    match disk.filesystem.enum_value() {
        Ok(Filesystem::EROFS) if !writable => Ok(("erofs", &[])),
        Ok(Filesystem::EXT4) => Ok(("ext4", &[])),
        // Copies of one image, as thin devices are, have one identity.
        Ok(Filesystem::XFS) => Ok(("xfs", &["nouuid"])),
        Ok(Filesystem::EROFS) => refused("erofs can't be written".into()),
        Ok(Filesystem::NONE) => refused("it has no filesystem".into()),
        Err(number) => refused(format!("there is no filesystem {number}")),
    }
}

/// What the kernel calls a device: by its place in the ACPI tables where it has found it there, or else on the
/// command line.
fn file_name(device: u32) -> String {
    let of_acpi = format!("LNRO0005:{device:02x}");
    match Path::new(DEVICES).join(&of_acpi).exists() {
        true => of_acpi,
        false => format!("virtio-mmio.{device}"),
    }
}

fn tell(what: &str, device: u32) -> Result<()> {
    let doing = || format!("{what} device {device} and its driver");
    fs::write(Path::new(DRIVER).join(what), file_name(device)).context(doing)
}

/// The first that begins so in a directory.
fn below(directory: &Path, begins: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.starts_with(begins).then(|| entry.path())
    })
}

/// Adds a partition to those that the kernel knows.
fn add(disk: &File, number: libc::c_int, start: u64, length: u64) -> std::io::Result<()> {
    let partition = Partition {
        start: i64::try_from(start).map_err(std::io::Error::other)?,
        length: i64::try_from(length).map_err(std::io::Error::other)?,
        number,
        names: [0; 128],
    };
    let change = Change {
        op: ADD,
        flags: 0,
        length: libc::c_int::try_from(size_of::<Partition>()).map_err(std::io::Error::other)?,
        partition: &raw const partition,
    };
    // SAFETY: the call reads the two structures, which are as the kernel's headers have them and live
    // through it.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const change) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(filesystem: Filesystem, parts: &[u64]) -> Disk {
        Disk {
            device: 3,
            filesystem: filesystem.into(),
            parts: parts.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn a_disk_is_what_it_can_be() {
        let read = |disk: &Disk| check(disk, false).map(|(name, _)| name);
        let written = |disk: &Disk| check(disk, true).map(|(name, _)| name);
        let layers = disk(Filesystem::EROFS, &[4096; 128]);
        assert_eq!(read(&layers).expect("layers"), "erofs");
        for (kind, name) in [(Filesystem::EXT4, "ext4"), (Filesystem::XFS, "xfs")] {
            let one = disk(kind, &[512]);
            assert_eq!(read(&one).expect("read"), name);
            assert_eq!(written(&one).expect("written"), name);
            written(&disk(kind, &[512, 512])).expect_err("two to write on");
        }
        written(&disk(Filesystem::EROFS, &[512])).expect_err("erofs to write on");
        let why = Bound::find(MOST_DEVICES).map(drop).expect_err("no device");
        assert_eq!(why.kind(), trefoil_core::ErrorKind::InvalidArgument);
        for wrong in [
            disk(Filesystem::EXT4, &[]),
            disk(Filesystem::EXT4, &[4096; 129]),
            disk(Filesystem::EXT4, &[0]),
            disk(Filesystem::EXT4, &[513]),
            disk(Filesystem::EXT4, &[u64::MAX - 511]),
            disk(Filesystem::EXT4, &[1 << 62, 1 << 62]),
            disk(Filesystem::NONE, &[512]),
        ] {
            let why = read(&wrong).expect_err("no disk").to_string();
            assert!(why.starts_with("the disk of device "), "{why}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_fits_into_the_kernels_numbers(
            parts in prop::collection::vec(any::<u64>().prop_map(|n| n & !511), 0..4),
        ) {
            if check(&disk(Filesystem::EROFS, &parts), false).is_ok() {
                let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
                prop_assert!(sum.is_some_and(|sum| i64::try_from(sum).is_ok()));
            }
        }
    }
}
