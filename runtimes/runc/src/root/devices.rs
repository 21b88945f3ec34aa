//! Device nodes and the links beside them.
//!
//! Whatever an image has at their names stays as it is, as with runc; nothing is followed out of the
//! root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, fstat, makedev, mknodat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use trefoil_os::detached::{Depth, Tree};

use super::path::{Confined, Make, Place, cleaned};
use super::reason::{Outcome, Reason};
use crate::setup::error::Failure;

/// Devices that every container has. Source: `config-linux.md#default-devices` of the runtime
/// specification.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links that every container has. Source: `runtime-linux.md#dev-symbolic-links` of the runtime
/// specification.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// All that is to be made.
#[derive(Debug)]
pub(super) struct Devices(Vec<Device>);

#[derive(Debug)]
struct Device {
    at: PathBuf,
    shown: String,
    kind: FileType,
    number: rustix::fs::Dev,
    mode: Mode,
    user: u32,
    group: u32,
    /// The host's, where none can be made.
    hosts: Option<Tree>,
}

impl Devices {
    /// The default ones and those of the configuration, which may be one of the former with another
    /// mode. `by_copy`: the container has a user namespace, whose root makes no devices.
    pub(super) fn new(spec: &Spec, by_copy: bool, has_dev: bool) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let given = linux.and_then(|linux| linux.devices().as_deref());
        let given = given.unwrap_or_default();
        let given: Vec<_> = given
            .iter()
            .map(|device| {
                Device::given(device).map_err(|why| {
                    why.failing(format_args!("make the device {}", device.path().display()))
                })
            })
            .collect::<Result<_, _>>()?;
        let defaults = DEFAULT
            .iter()
            .map(|(name, major, minor)| Device::default(name, *major, *minor));
        let defaults =
            defaults.filter(|default| !given.iter().any(|device| device.at == default.at));
        let mut all: Vec<_> = defaults.collect();
        all.extend(given);
        all.retain(|device| device.at != Path::new("dev/ptmx") && !(has_dev && device.is_in_dev()));
        if by_copy {
            for device in &mut all {
                device.open_hosts()?;
            }
        }
        Ok(Self(all))
    }

    /// Makes them. The file creation mask must be empty.
    pub(super) fn make(self, root: &Confined, dev: &mut Dev) -> Result<(), Failure> {
        for device in self.0 {
            let shown = device.shown.clone();
            device
                .make(root, dev)
                .map_err(|why| why.failing(format_args!("make the device {shown}")))?;
        }
        Ok(())
    }
}

impl Device {
    fn default(name: &str, major: u32, minor: u32) -> Self {
        Self {
            at: Path::new("dev").join(name),
            shown: format!("/dev/{name}"),
            kind: FileType::CharacterDevice,
            number: makedev(major, minor),
            mode: Mode::from_raw_mode(0o666),
            user: 0,
            group: 0,
            hosts: None,
        }
    }

    fn given(device: &LinuxDevice) -> Outcome<Self> {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(Reason::new("\"a\" is no type of a device")),
        };
        let number = |given: i64| {
            u32::try_from(given)
                .map_err(|_| Reason::new(format!("{given} is no number of a device")))
        };
        let at = cleaned(device.path());
        if at.as_os_str().is_empty() {
            return Err(Reason::new("it is the container's root"));
        }
        Ok(Self {
            at,
            shown: device.path().display().to_string(),
            kind,
            number: match kind {
                FileType::Fifo => 0,
                _ => makedev(number(device.major())?, number(device.minor())?),
            },
            mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
            user: device.uid().unwrap_or_default(),
            group: device.gid().unwrap_or_default(),
            hosts: None,
        })
    }

    fn is_in_dev(&self) -> bool {
        self.at.starts_with("dev")
    }

    fn open_hosts(&mut self) -> Result<(), Failure> {
        if self.kind != FileType::Fifo {
            let tree = self.hosts().map_err(|why| {
                why.failing(format_args!("take the host's device {}", self.shown))
            })?;
            self.hosts = Some(tree);
        }
        Ok(())
    }

    /// A copy of the host's node of the same path, if that is the same device.
    fn hosts(&self) -> Outcome<Tree> {
        let tree = Tree::copy_at(CWD, &Path::new("/").join(&self.at), Depth::One)?;
        let status = fstat(tree.as_fd())?;
        let same = FileType::from_raw_mode(status.st_mode) == self.kind;
        match same && status.st_rdev == self.number {
            true => Ok(tree),
            false => Err(Reason::new("it is another device there")),
        }
    }

    fn make(self, root: &Confined, dev: &mut Dev) -> Outcome<()> {
        if let Some(name) = name_in_dev(&self.at) {
            let dev = dev.open(root)?;
            match self.make_at(dev, name) {
                // Perhaps a symlink, that leads to where it is to be.
                Err(why) if why.errno == Some(nix::errno::Errno::EEXIST) => {}
                outcome => return outcome,
            }
        }
        let Place {
            directory,
            name,
            found,
        } = root.place(&self.at)?;
        match (found, &self.hosts) {
            (Some(found), Some(hosts)) => Ok(hosts.attach_at(found.as_fd())?),
            // As runc does.
            (Some(_), None) => Ok(()),
            (None, _) => match self.make_at(directory.as_fd(), &name) {
                // Somebody was faster.
                Err(why) if why.errno == Some(nix::errno::Errno::EEXIST) => Ok(()),
                outcome => outcome,
            },
        }
    }

    fn make_at(&self, directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> Outcome<()> {
        let name = name.as_ref();
        if let Some(hosts) = &self.hosts {
            return attach_new(directory, name, hosts);
        }
        match mknodat(directory, name, self.kind, self.mode, self.number) {
            Ok(()) => self.give_away(directory, name),
            // The root of a user namespace that this process was in already.
            Err(Errno::PERM) => attach_new(directory, name, &self.hosts()?),
            Err(why) => Err(why.into()),
        }
    }

    /// Sets the owner. In a directory that others may write to, the name may be another file's now.
    fn give_away(&self, directory: BorrowedFd<'_>, name: &Path) -> Outcome<()> {
        if self.user == 0 && self.group == 0 {
            return Ok(());
        }
        let flags =
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let node = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let status = fstat(&node)?;
        let same = FileType::from_raw_mode(status.st_mode) == self.kind;
        if !same || status.st_rdev != self.number {
            return Err(Reason::new("it has become another file"));
        }
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        chownat(&node, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
        Ok(())
    }
}

/// Makes an empty file and mounts a device on it.
fn attach_new(directory: BorrowedFd<'_>, name: &Path, hosts: &Tree) -> Outcome<()> {
    mknodat(directory, name, FileType::RegularFile, Mode::empty(), 0)?;
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let place = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    hosts.attach_at(place.as_fd())?;
    Ok(())
}

fn name_in_dev(path: &Path) -> Option<&Path> {
    let name = path.strip_prefix("dev").ok()?;
    (name.components().count() == 1).then_some(name)
}

/// The container's `/dev`, where most devices are: opened once, and made if it must be.
#[derive(Debug, Default)]
pub(super) struct Dev(Option<OwnedFd>);

impl Dev {
    fn open(&mut self, root: &Confined) -> Outcome<BorrowedFd<'_>> {
        let dev = match self.0.take() {
            Some(dev) => dev,
            None => root.make(Path::new("dev"), || Ok(Make::Directory))?.fd,
        };
        let dev: &OwnedFd = self.0.insert(dev);
        Ok(dev.as_fd())
    }
}

/// Makes the links in `/dev`, where there is none of that name, and the one to the container's own
/// terminals, in place of what there is.
pub(super) fn link(root: &Confined, dev: &mut Dev) -> Result<(), Failure> {
    let failing = |why: Reason| why.failing("make the links in /dev");
    let dev = dev.open(root).map_err(failing)?;
    terminals(dev).map_err(|why| why.failing("make the link /dev/ptmx"))?;
    // Some kernels have none.
    let core = rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok();
    let core = core.then_some(("/proc/kcore", "core"));
    for (target, name) in LINKS.into_iter().chain(core) {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(why) => return Err(failing(why.into())),
        }
    }
    Ok(())
}

fn terminals(dev: BorrowedFd<'_>) -> Outcome<()> {
    let make = || symlinkat("pts/ptmx", dev, "ptmx");
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(dev, "ptmx", AtFlags::empty())?;
            Ok(make()?)
        }
        outcome => Ok(outcome?),
    }
}
