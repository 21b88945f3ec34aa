//! Devices, and what images have in their place.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use serde_json::json;

use super::world::{isolated, usual};

const fn device(major: u64, minor: u64) -> u64 {
    major << 8 | minor
}

#[test]
fn devices_are_made_anywhere_with_exact_modes_and_owners() {
    isolated(|world| {
        world.link("data", "/mnt/data");
        let devices = json!([
            {"path": "/scsi-hdd", "type": "b", "major": 7, "minor": 200, "fileMode": 0o640, "uid": 11, "gid": 22},
            {"path": "/mnt/vol/blk", "type": "c", "major": 1, "minor": 5},
            {"path": "/mnt/vol/blk", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
            {"path": "/dev/deep/er/tty", "type": "u", "major": 5, "minor": 0, "fileMode": 0o777},
            {"path": "/data/fifo", "type": "p", "fileMode": 0o4622},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
        ]);
        world.enter(json!(usual()), json!({"devices": devices}));
        let block = fs::metadata("/scsi-hdd").unwrap();
        assert!(block.file_type().is_block_device());
        assert_eq!(block.rdev(), device(7, 200));
        assert_eq!(
            (block.uid(), block.gid(), block.mode() & 0o7777),
            (11, 22, 0o640)
        );
        assert_eq!(fs::metadata("/mnt/vol/blk").unwrap().rdev(), device(1, 5));
        assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::metadata("/dev/deep/er/tty").unwrap().mode() & 0o7777,
            0o777
        );
        assert!(
            fs::metadata("/mnt/data/fifo")
                .unwrap()
                .file_type()
                .is_fifo()
        );
        assert!(fs::symlink_metadata("/dev/ptmx").unwrap().is_symlink());
    });
}

#[test]
fn without_a_mount_at_dev_the_images_is_used_as_it_is() {
    isolated(|world| {
        let dev = world.root.join("dev");
        fs::write(dev.join("full"), "file").unwrap();
        fs::create_dir(dev.join("zero")).unwrap();
        fs::write(dev.join("ptmx"), "file").unwrap();
        symlink("/etc/passwd", dev.join("stdin")).unwrap();
        symlink("/etc/passwd", dev.join("random")).unwrap();
        symlink("../usr/lib/tty", dev.join("tty")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dev.join("urandom")).unwrap();
        let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        world.enter(mounts, json!({"maskedPaths": ["/proc/version"]}));
        assert_eq!(fs::read_to_string("/dev/full").unwrap(), "file");
        assert!(fs::metadata("/dev/zero").unwrap().is_dir());
        assert_eq!(
            fs::read_link("/dev/ptmx").unwrap().to_str(),
            Some("pts/ptmx")
        );
        assert_eq!(
            fs::read_link("/dev/stdin").unwrap().to_str(),
            Some("/etc/passwd")
        );
        assert!(
            fs::read_to_string("/etc/passwd")
                .unwrap()
                .starts_with("root:")
        );
        assert_eq!(fs::metadata("/dev/null").unwrap().rdev(), device(1, 3));
        assert_eq!(fs::metadata("/usr/lib/tty").unwrap().rdev(), device(5, 0));
        assert!(
            fs::metadata("/dev/urandom")
                .unwrap()
                .file_type()
                .is_socket()
        );
    });
}

#[test]
fn nothing_is_made_in_a_dev_that_is_the_hosts() {
    isolated(|world| {
        fs::create_dir(world.host.join("dev")).unwrap();
        let before = world.of_host();
        let mounts = json!([
            {"destination": "/dev", "type": "bind", "source": "dev", "options": ["rbind", "ro"]},
        ]);
        let devices = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3},
                             {"path": "/y", "type": "c", "major": 1, "minor": 3}]);
        let plan = world.plan(mounts, json!({"devices": devices})).unwrap();
        let root = world.prepare(plan).unwrap();
        assert_eq!(world.of_host(), before);
        root.pivot(false).unwrap();
        root.finish().unwrap();
        assert_eq!(fs::metadata("/y").unwrap().rdev(), device(1, 3));
        assert!(fs::write("/dev/x", "x").is_err());
    });
}

#[test]
fn a_null_device_that_is_none_masks_nothing() {
    isolated(|world| {
        fs::write(world.root.join("dev/null"), "file").unwrap();
        let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        let plan = world
            .plan(mounts, json!({"maskedPaths": ["/proc/version"]}))
            .unwrap();
        let root = world.prepare(plan).unwrap();
        root.pivot(false).unwrap();
        let why = root.finish().unwrap_err().to_string();
        assert_eq!(
            why,
            "cannot mask /proc/version: container's /dev/null is invalid"
        );
    });
}

#[test]
fn what_is_no_device_is_refused() {
    isolated(|world| {
        let refusal = |device| {
            let linux = json!({"devices": [device]});
            world.plan(json!([]), linux).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(json!({"path": "/a", "type": "a", "major": 1, "minor": 3})),
            "cannot make the device /a: \"a\" is no type of a device"
        );
        assert_eq!(
            refusal(json!({"path": "/a", "type": "c", "major": -1, "minor": 3})),
            "cannot make the device /a: -1 is no number of a device"
        );
    });
}
