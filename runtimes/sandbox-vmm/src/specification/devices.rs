//! The devices of a container: the guest's own, where it has what the host's would be.
//!
//! A device is a kernel's, and the container's kernel is the guest's. What has no state beyond its kernel
//! (`/dev/fuse`, `/dev/net/tun`) is the same there, so a device plugin's request for it is met. A
//! privileged container gets all of that kind; `docs/microvm.md` lists them. Disks are left out: they
//! are what containers' roots are on.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Spec,
};
use trefoil_core::{Context, Result};

use super::refuse;

/// What every container has in `/dev` without asking.
const DEFAULT: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts/ptmx",
];

/// How many nodes of loop devices a privileged container finds: as many as most nodes have.
const LOOPS: i64 = 8;

/// The major number of loop devices.
const LOOP: i64 = 7;

/// What only a container has that is called privileged.
const OF_THE_PRIVILEGED: [oci_spec::runtime::Capability; 2] = [
    oci_spec::runtime::Capability::SysAdmin,
    oci_spec::runtime::Capability::Mknod,
];

/// A device of the guest's: path, numbers, and who may open it.
struct Own {
    path: &'static str,
    major: i64,
    minor: i64,
    mode: u32,
    /// It is given to whoever asks for it, as a device plugin does.
    asked: bool,
}

const OWN: [Own; 5] = [
    own("/dev/fuse", 10, 229, 0o666, true),
    own("/dev/net/tun", 10, 200, 0o666, true),
    own("/dev/kmsg", 1, 11, 0o644, false),
    own("/dev/loop-control", 10, 237, 0o660, false),
    own("/dev/mapper/control", 10, 236, 0o600, false),
];

const fn own(path: &'static str, major: i64, minor: i64, mode: u32, asked: bool) -> Own {
    Own {
        path,
        major,
        minor,
        mode,
        asked,
    }
}

/// What a container is to have of devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// To be made in its `/dev`.
    pub nodes: Vec<LinuxDevice>,
    /// To be allowed beside what its configuration allows.
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// The devices of a container.
///
/// # Errors
/// If it is to have one of the host's.
pub(super) fn of(spec: &Spec) -> Result<Devices> {
    let linux = spec.linux().as_ref();
    let asked = linux.and_then(|linux| linux.devices().as_deref());
    let asked = asked.unwrap_or_default();
    let (met, others): (Vec<_>, Vec<_>) = asked
        .iter()
        .filter(|device| !DEFAULT.iter().any(|path| device.path() == Path::new(path)))
        .partition(|device| OWN.iter().any(|own| own.asked && own.is(device)));
    check(&others)?;
    let mut devices = Devices {
        nodes: met.into_iter().cloned().collect(),
        rules: Vec::new(),
    };
    if is_privileged(spec) {
        devices.add_all()?;
    }
    Ok(devices)
}

fn check(of_the_host: &[&LinuxDevice]) -> Result<()> {
    match of_the_host {
        [] => Ok(()),
        [one] => Err(refuse(
            &format!("{}, a device of the host's", one.path().display()),
            "use a handler of namespace pods",
        )),
        [first, rest @ ..] => Err(refuse(
            &format!(
                "devices of the host's ({} and {} more)",
                first.path().display(),
                rest.len()
            ),
            "for privileged containers set privileged_without_host_devices = true for the handler in \
             containerd's configuration",
        )),
    }
}

/// Whether this is what CRI calls a privileged container. No field says so: it may use all devices, or,
/// where containerd is told not to allow them, it may do all that the others are kept from.
fn is_privileged(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else {
        return false;
    };
    let rules = linux.resources().as_ref();
    let rules = rules.and_then(|resources| resources.devices().as_deref());
    rules.unwrap_or_default().iter().any(allows_all) || {
        let is_empty = |paths: &Option<Vec<String>>| paths.as_ref().is_none_or(Vec::is_empty);
        is_empty(linux.masked_paths())
            && is_empty(linux.readonly_paths())
            && linux.seccomp().is_none()
            && may_administer(spec)
            && writes_sysfs(spec)
    }
}

fn allows_all(rule: &LinuxDeviceCgroup) -> bool {
    let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
    let access = rule.access().as_deref().unwrap_or_default();
    rule.allow()
        && matches!(rule.typ(), None | Some(LinuxDeviceType::A))
        && any(rule.major())
        && any(rule.minor())
        && "rwm".chars().all(|one| access.contains(one))
}

fn may_administer(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|all| all.bounding().as_ref());
    bounding.is_some_and(|bounding| OF_THE_PRIVILEGED.iter().all(|one| bounding.contains(one)))
}

fn writes_sysfs(spec: &Spec) -> bool {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let sysfs = mounts
        .iter()
        .find(|mount| mount.typ().as_deref() == Some("sysfs"));
    sysfs.is_some_and(|mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        !options.iter().any(|option| option == "ro")
    })
}

impl Own {
    fn is(&self, device: &LinuxDevice) -> bool {
        let is_character = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
        is_character
            && device.path() == Path::new(self.path)
            && (device.major(), device.minor()) == (self.major, self.minor)
    }
}

impl Devices {
    /// Adds what a privileged container has, but for what it has already.
    fn add_all(&mut self) -> Result<()> {
        for own in &OWN {
            self.rules
                .push(rule(LinuxDeviceType::C, own.major, Some(own.minor))?);
            let node = node(own.path.into(), LinuxDeviceType::C, own.major, own.minor);
            self.add(node, own.mode);
        }
        self.rules.push(rule(LinuxDeviceType::B, LOOP, None)?);
        for number in 0..LOOPS {
            let path = PathBuf::from(format!("/dev/loop{number}"));
            self.add(node(path, LinuxDeviceType::B, LOOP, number), 0o660);
        }
        Ok(())
    }

    fn add(&mut self, mut device: LinuxDevice, mode: u32) {
        device.set_file_mode(Some(mode));
        if !self.nodes.iter().any(|one| one.path() == device.path()) {
            self.nodes.push(device);
        }
    }
}

fn node(path: PathBuf, kind: LinuxDeviceType, major: i64, minor: i64) -> LinuxDevice {
    let mut device = LinuxDevice::default();
    device
        .set_path(path)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_uid(Some(0))
        .set_gid(Some(0));
    device
}

fn rule(kind: LinuxDeviceType, major: i64, minor: Option<i64>) -> Result<LinuxDeviceCgroup> {
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .access("rwm");
    let rule = match minor {
        Some(minor) => rule.minor(minor),
        None => rule,
    };
    rule.build()
        .context(|| "allow a privileged container a device")
}
