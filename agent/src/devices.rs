//! The devices that a container may have: the guest's.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use trefoil_core::Result;

use crate::refusal::refused;

/// The major number of loop devices, and how many a container may have nodes of.
const LOOP: i64 = 7;
const MOST_LOOPS: i64 = 256;

/// Whether it is a loop device by name and number: the kernel makes one when it is opened.
fn is_loop(device: &LinuxDevice) -> bool {
    device.typ() == LinuxDeviceType::B
        && device.major() == LOOP
        && (0..MOST_LOOPS).contains(&device.minor())
        && device.path() == Path::new(&format!("/dev/loop{}", device.minor()))
}

/// A device's node is made in the container, and the device has to be the guest's.
pub(crate) fn check(device: &LinuxDevice) -> Result<()> {
    if is_loop(device) {
        return Ok(());
    }
    let name = device.path().display();
    let missing = || {
        refused(
            "linux.devices",
            format_args!("the guest has no device {name} of that number"),
        )
    };
    let below = device.path().strip_prefix("/dev").map_err(|_| missing())?;
    if below
        .components()
        .any(|part| !matches!(part, Component::Normal(_)))
    {
        return Err(missing());
    }
    let found = std::fs::symlink_metadata(Path::new("/dev").join(below)).map_err(|_| missing())?;
    let kind = found.file_type();
    let same_kind = match device.typ() {
        LinuxDeviceType::B => kind.is_block_device(),
        LinuxDeviceType::C | LinuxDeviceType::U => kind.is_char_device(),
        LinuxDeviceType::A | LinuxDeviceType::P => false,
    };
    let number = (
        i64::from(libc::major(found.rdev())),
        i64::from(libc::minor(found.rdev())),
    );
    match same_kind && number == (device.major(), device.minor()) {
        true => Ok(()),
        false => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(path: &str, kind: &str, minor: i64) -> Result<()> {
        let device = json!({"path": path, "type": kind, "major": 7, "minor": minor});
        check(&serde_json::from_value(device).expect("a device"))
    }

    #[test]
    fn a_loop_device_need_not_be_there_yet() {
        of("/dev/loop255", "b", 255).expect("the kernel makes it");
    }

    #[test]
    fn nothing_else_passes_for_a_loop_device() {
        for (path, kind, minor) in [
            ("/dev/loop254", "b", 255),
            ("/dev/loop256", "b", 256),
            ("/dev/loop-1", "b", -1),
            ("/dev/loop255", "c", 255),
            ("/srv/loop255", "b", 255),
            ("/dev/../dev/loop255", "b", 255),
        ] {
            let why = of(path, kind, minor).expect_err(path);
            assert!(why.to_string().contains(path), "{why}");
        }
    }
}
