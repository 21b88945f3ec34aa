//! Mounts as configurations ask for them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::world::{isolated, mount_at, usual, usual_and};

#[test]
fn a_usual_root_is_whole() {
    isolated(|world| {
        let linux = json!({
            "maskedPaths": ["/proc/version", "/proc/acpi", "/sys/firmware", "/no/such", "/proc/scsi"],
            "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/nothing"],
            "readonlyRoot": true,
        });
        world.enter(json!(usual()), linux);
        assert!(mount_at("/").unwrap().starts_with("ro,"));
        assert!(!std::path::Path::new("/mnt/host").exists());
        assert!(
            mount_at("/proc")
                .unwrap()
                .starts_with("rw,nosuid,nodev,noexec,relatime")
        );
        assert!(
            mount_at("/sys")
                .unwrap()
                .starts_with("ro,nosuid,nodev,noexec,relatime")
        );
        assert!(
            mount_at("/proc/sys")
                .unwrap()
                .starts_with("ro,nosuid,nodev,noexec,relatime")
        );
        let dev = mount_at("/dev").unwrap();
        assert!(
            dev.starts_with("rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755"),
            "{dev}"
        );
        assert!(fs::write("/proc/sys/kernel/hostname", "x").is_err());
        assert!(fs::write("/x", "x").is_err());
        assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
        assert_eq!(fs::read("/proc/version").unwrap(), b"");
        fs::write("/dev/null", "x").unwrap();
        assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o7777, 0o666);
        assert_eq!(
            fs::read_link("/dev/ptmx").unwrap().to_str(),
            Some("pts/ptmx")
        );
        assert_eq!(
            fs::read_link("/dev/fd").unwrap().to_str(),
            Some("/proc/self/fd")
        );
        assert!(mount_at("/dev/mqueue").unwrap().contains("mqueue"));
    });
}

#[test]
fn dev_that_is_to_be_read_only_is_when_its_devices_are_made() {
    isolated(|world| {
        let mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
            {"destination": "/tmp/below", "type": "tmpfs", "source": "tmpfs", "options": ["rw"]},
        ]);
        world.enter(mounts, json!({}));
        assert!(fs::metadata("/dev/null").unwrap().rdev() == 0x103);
        assert!(mount_at("/dev").unwrap().starts_with("ro,"));
        assert!(mount_at("/tmp").unwrap().starts_with("ro,"));
        fs::write("/tmp/below/x", "x").unwrap();
        assert!(fs::write("/dev/x", "x").is_err());
    });
}

#[test]
fn a_tmpfs_keeps_the_mode_and_with_tmpcopyup_the_files() {
    isolated(|world| {
        let etc = world.root.join("etc");
        fs::set_permissions(&etc, fs::Permissions::from_mode(0o1751)).unwrap();
        fs::create_dir(etc.join("sub")).unwrap();
        fs::write(etc.join("sub/file"), "content").unwrap();
        fs::set_permissions(etc.join("sub/file"), fs::Permissions::from_mode(0o4640)).unwrap();
        chown(etc.join("sub/file"), Some(12), Some(34)).unwrap();
        fs::set_permissions(etc.join("sub/file"), fs::Permissions::from_mode(0o4640)).unwrap();
        chown(etc.join("sub"), Some(56), Some(78)).unwrap();
        symlink("/etc/shadow", etc.join("link")).unwrap();
        nix::unistd::mkfifo(&etc.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let times = nix::sys::time::TimeVal::new(1_000_000, 0);
        nix::sys::stat::utimes(&etc.join("sub/file"), &times, &times).unwrap();
        let mounts = usual_and(json!([
            {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]},
            {"destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "mode=700"]},
        ]));
        world.enter(mounts, json!({}));
        assert_eq!(fs::metadata("/etc").unwrap().mode() & 0o7777, 0o1751);
        assert_eq!(fs::metadata("/var").unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_to_string("/etc/sub/file").unwrap(), "content");
        let file = fs::metadata("/etc/sub/file").unwrap();
        assert_eq!((file.uid(), file.gid(), file.mtime()), (12, 34, 1_000_000));
        assert_eq!(file.mode() & 0o7777, 0o4640);
        assert_eq!(fs::metadata("/etc/sub").unwrap().uid(), 56);
        assert_eq!(
            fs::read_link("/etc/link").unwrap().to_str(),
            Some("/etc/shadow")
        );
        let fifo = fs::metadata("/etc/fifo").unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fifo));
        assert!(mount_at("/etc").unwrap().contains("nosuid"));
    });
}

#[test]
fn binds_change_what_they_name_and_nothing_else() {
    isolated(|world| {
        let sub = world.host.join("sub");
        fs::create_dir(&sub).unwrap();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        mount(Some("t"), &sub, Some("tmpfs"), flags, None::<&str>).unwrap();
        let bind = |at: &str, source: &std::path::Path, options: &[&str]| json!({"destination": at, "type": "none", "source": source, "options": options});
        let mounts = usual_and(json!([
            bind("/ro", &sub, &["bind", "ro"]),
            bind("/dev2", &sub, &["bind", "dev", "strictatime"]),
            bind("/rro", &world.host, &["rbind", "rro"]),
            bind("/top", &world.host, &["rbind", "ro", "rw", "ro"]),
            bind("/one", &world.host, &["bind", "rro"]),
            bind("/plain", &sub, &["rbind"]),
            bind("rel/../at", std::path::Path::new("sub"), &["bind"]),
            bind("/file", &world.host.join("canary"), &["bind", "ro"]),
        ]));
        world.enter(mounts, json!({}));
        let starts = |path: &str, start: &str| {
            let found = mount_at(path).unwrap();
            assert!(found.starts_with(start), "{path}: {found}");
        };
        starts("/ro", "ro,nosuid,nodev,noatime ");
        starts("/dev2", "rw,nosuid ");
        starts("/rro", "ro,relatime ");
        starts("/rro/sub", "ro,nosuid,nodev,noatime ");
        starts("/top", "ro,relatime ");
        starts("/top/sub", "rw,nosuid,nodev,noatime ");
        starts("/one", "ro,relatime ");
        assert!(mount_at("/one/sub").is_none());
        starts("/plain", "rw,nosuid,nodev,noatime ");
        starts("/at", "rw,nosuid,nodev,noatime ");
        assert!(!std::path::Path::new("/rel").exists());
        assert_eq!(fs::read_to_string("/file").unwrap(), "alive");
        assert!(fs::write("/rro/sub/x", "x").is_err());
    });
}

/// The optional fields of a mount: how it propagates.
fn fields(path: &str) -> String {
    let line = mount_at(path).unwrap();
    let (before, _) = line.split_once(" - ").unwrap();
    let fields = before.split(' ').skip(1);
    let fields = fields.map(|field| field.split(':').next().unwrap_or_default());
    fields.collect::<Vec<_>>().join(" ")
}

#[test]
fn propagation_is_what_each_mount_asks_for() {
    let cases = [
        (
            None,
            ["master", "", "master", "shared master", "unbindable"],
            "",
        ),
        (
            Some("rslave"),
            ["master", "", "master", "shared master", "unbindable"],
            "master",
        ),
        (
            Some("private"),
            ["", "", "master", "shared", "unbindable"],
            "",
        ),
    ];
    for (root, expected, of_root) in cases {
        isolated(move |world| {
            let names = ["", "rprivate", "rslave", "rshared", "runbindable"];
            let mounts = names.map(|name| {
                let options = ["rbind", name];
                json!({"destination": format!("/at{name}"), "type": "bind", "source": world.host, "options": options})
            });
            let linux = match root {
                Some(root) => json!({"rootfsPropagation": root}),
                None => json!({}),
            };
            world.enter(usual_and(json!(mounts)), linux);
            for (name, expected) in names.iter().zip(expected) {
                assert_eq!(fields(&format!("/at{name}")), expected, "{root:?} {name}");
            }
            assert_eq!(fields("/"), of_root, "{root:?}");
            assert_eq!(fields("/proc"), "", "{root:?}");
        });
    }
}

#[test]
fn a_shared_volume_in_a_shared_root_passes_mounts_both_ways() {
    isolated(|world| {
        let host = std::fs::File::open("/").unwrap();
        let namespace = std::fs::File::open("/proc/self/ns/mnt").unwrap();
        let volume = json!([{
            "destination": "/vol", "type": "bind", "source": world.host,
            "options": ["rbind", "rshared"],
        }]);
        world.enter(usual_and(volume), json!({"rootfsPropagation": "rshared"}));
        assert_eq!(fields("/"), "shared");
        fs::create_dir("/vol/theirs").unwrap();
        let none = None::<&str>;
        mount(
            Some("seen"),
            "/vol/theirs",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        nix::unistd::fchdir(&host).unwrap();
        nix::unistd::chroot(".").unwrap();
        assert!(mount_at("/mnt/host/theirs").unwrap().contains("seen"));
    });
}

#[test]
fn failures_say_what_and_where_and_why() {
    let cases = [
        (
            json!([{"destination": "/vol", "type": "bind", "source": "/no/such/dir", "options": ["rbind"]}]),
            "cannot mount /no/such/dir at /vol: no such file or directory",
        ),
        (
            json!([{"destination": "/etc/passwd", "type": "bind", "source": "/mnt/host", "options": ["rbind"]}]),
            "cannot mount /mnt/host at /etc/passwd: not a directory",
        ),
        (
            json!([{"destination": "/etc", "type": "bind", "source": "/mnt/host/canary", "options": ["rbind"]}]),
            "cannot mount /mnt/host/canary at /etc: not a directory",
        ),
        (
            json!([{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["sise=1m"]}]),
            "cannot mount tmpfs at /t: invalid argument (tmpfs: Unknown parameter 'sise')",
        ),
        (
            json!([{"destination": "/t", "type": "nfs9", "source": "x:/y"}]),
            "cannot mount x:/y at /t: no such device (this kernel has no filesystem nfs9)",
        ),
        (
            json!([{"destination": "/v", "type": "bind", "source": "/mnt/host", "options": ["rbind", "ro"]},
                   {"destination": "/v/sub", "type": "tmpfs", "source": "tmpfs"}]),
            "cannot mount tmpfs at /v/sub: read-only file system",
        ),
        (
            json!([{"destination": "/v", "type": "bind", "source": "/mnt/host", "options": ["rbind", "size=1m"]}]),
            "cannot mount /mnt/host at /v: bind mounts cannot have any filesystem-specific options \
             applied, as \"size=1m\" is",
        ),
        (
            json!([{"destination": "/", "type": "tmpfs", "source": "tmpfs"}]),
            "cannot mount tmpfs at /: it is the container's root",
        ),
    ];
    for (mounts, expected) in cases {
        isolated(move |world| assert_eq!(world.refusal(mounts), expected));
    }
}

#[test]
fn remounting_changes_the_mount_and_its_filesystem() {
    isolated(|world| {
        let mounts = usual_and(json!([
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=2m", "nosuid"]},
            {"destination": "/dev/shm", "type": "bind", "options": ["bind", "remount", "ro"]},
        ]));
        world.enter(mounts, json!({}));
        let tmp = mount_at("/tmp").unwrap();
        assert!(
            tmp.contains("size=2048k") && tmp.contains("nosuid"),
            "{tmp}"
        );
        assert!(
            mount_at("/dev/shm")
                .unwrap()
                .starts_with("ro,nosuid,nodev,noexec")
        );
    });
}

#[test]
fn an_overlay_may_have_many_layers_and_a_long_value_goes_the_old_way() {
    isolated(|world| {
        let layer = |number: u32| {
            let layer = world.host.join(format!("layer-with-a-long-name-{number}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(number.to_string()), "x").unwrap();
            layer.display().to_string()
        };
        let layers = (0..40).map(layer).collect::<Vec<_>>().join(":");
        let mounts = usual_and(json!([
            {"destination": "/over", "type": "overlay", "source": "overlay",
             "options": ["ro", format!("lowerdir={layers}")]},
            {"destination": "/counted", "type": "tmpfs", "source": "tmpfs",
             "options": ["iversion", "ro", "mode=711", "private"]},
        ]));
        world.enter(mounts, json!({}));
        assert_eq!(fs::read_dir("/over").unwrap().count(), 40);
        let counted = mount_at("/counted").unwrap();
        assert!(counted.starts_with("ro,relatime - tmpfs"), "{counted}");
    });
}

#[test]
fn what_cannot_be_pivoted_is_moved() {
    isolated(|world| {
        let plan = world.plan(json!(usual()), json!({})).unwrap();
        let root = world.prepare(plan).unwrap();
        root.pivot(true).unwrap();
        root.finish().unwrap();
        assert!(!std::path::Path::new("/mnt/host").exists());
        assert!(std::path::Path::new("/proc/self").exists());
        let whole = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(whole.matches(" - proc ").count(), 1, "{whole}");
    });
}

#[test]
fn a_terminal_is_at_dev_console() {
    isolated(|world| {
        let plan = world.plan(json!(usual()), json!({})).unwrap();
        let root = world.prepare(plan).unwrap();
        root.pivot(false).unwrap();
        let open = |path: &str| {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
        };
        let terminal = open("/dev/ptmx").unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let peer = open("/dev/pts/0").unwrap();
        root.attach_console(std::os::fd::AsFd::as_fd(&peer))
            .unwrap();
        let rdev = |path: &str| fs::metadata(path).unwrap().rdev();
        assert_eq!(rdev("/dev/console"), rdev("/dev/pts/0"));
        root.finish().unwrap();
    });
}
