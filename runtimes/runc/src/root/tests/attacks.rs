//! Images that are made to reach the host, and neighbours that help them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, openat, renameat_with, statat};
use rustix::io::Errno;
use serde_json::json;

use super::world::{World, isolated, usual, usual_and};
use crate::root::path::{Confined, Make, cleaned};

fn confined(root: &Path) -> Confined {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Confined::new(openat(CWD, root, flags, Mode::empty()).unwrap())
}

/// What a descriptor is of.
fn identity(fd: impl AsFd) -> (u64, u64) {
    let status = statat(fd, "", AtFlags::EMPTY_PATH).unwrap();
    (status.st_dev, status.st_ino)
}

fn identity_of(path: &Path) -> (u64, u64) {
    let status = fs::metadata(path).unwrap();
    (status.dev(), status.ino())
}

fn make(root: &Confined, path: &str, what: Make) -> Result<OwnedFd, Errno> {
    root.make(Path::new(path), || Ok(what))
        .map(|found| found.fd)
}

#[test]
fn dev_as_a_symlink_touches_nothing_of_the_host() {
    for present in [false, true] {
        isolated(move |world| {
            fs::write(world.host.join("ptmx"), "precious").unwrap();
            world.link("dev", &world.host);
            if present {
                fs::create_dir_all(world.root.join("mnt/host")).unwrap();
            }
            let before = world.of_host();
            world.enter(json!([]), json!({}));
            assert!(fs::metadata("/mnt/host/null").unwrap().rdev() == 0x103);
            assert_eq!(
                fs::read_link("/mnt/host/ptmx").unwrap().to_str(),
                Some("pts/ptmx")
            );
            drop(before);
        });
        isolated(move |world| {
            fs::write(world.host.join("ptmx"), "precious").unwrap();
            world.link("dev", &world.host);
            let before = world.of_host();
            let plan = world.plan(json!(usual()), json!({})).unwrap();
            world.prepare(plan).unwrap();
            assert_eq!(world.of_host(), before);
        });
    }
}

#[test]
fn links_of_every_kind_at_every_place_touch_nothing_of_the_host() {
    let places = [
        "dev",
        "dev/null",
        "dev/ptmx",
        "dev/fd",
        "dev/pts",
        "dev/shm",
        "dev/console",
        "etc",
        "etc/hosts",
        "etc/resolv.conf",
        "var",
        "var/log",
        "data",
        "proc",
        "sys",
        "tmp",
    ];
    let targets = [
        "/mnt/host",
        "/mnt/host/canary",
        "/mnt/host/new",
        "../mnt/host",
        "../../../../mnt/host",
        "/proc/self/root/mnt/host",
        "/proc/1/cwd",
        "..",
        "/",
        ".",
        "loop",
        "/etc/../../mnt/host/x",
    ];
    for place in places {
        isolated(move |world| {
            for target in targets {
                let place = world.root.join(place);
                let _ = fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place));
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                let _ = symlink(target, &place);
                let mounts = json!([
                    {"destination": "/etc/hosts", "type": "bind", "source": "canary", "options": ["bind", "ro"]},
                    {"destination": "/etc/resolv.conf", "type": "bind", "source": "canary", "options": ["bind", "ro"]},
                    {"destination": "/var/log", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
                    {"destination": "/data", "type": "tmpfs", "source": "tmpfs"},
                ]);
                let mounts = usual_and(mounts);
                let before = world.of_host();
                for mounts in [mounts, json!([])] {
                    let devices = json!([{"path": "/data/x", "type": "c", "major": 1, "minor": 3}]);
                    let plan = world.plan(mounts, json!({"devices": devices})).unwrap();
                    let _ = world.prepare(plan);
                    assert_eq!(world.of_host(), before, "{} -> {target}", place.display());
                    nix::unistd::chdir("/").unwrap();
                    while nix::mount::umount2(&world.root, nix::mount::MntFlags::MNT_DETACH).is_ok()
                    {
                    }
                }
            }
        });
    }
}

#[test]
fn nothing_is_mounted_over_or_in_proc_by_whatever_path() {
    let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
    let bind = |at: &str| json!({"destination": at, "type": "bind", "source": "/mnt/host", "options": ["rbind"]});
    let cases = [
        (bind("/proc"), "it is not of type proc"),
        (tmpfs("/proc"), "it is not of type proc"),
        (tmpfs("//etc/../proc/."), "it is not of type proc"),
        (bind("/data"), "it is not of type proc"),
        (
            bind("/data2"),
            "\"/proc/sys/kernel\" cannot be mounted because it is inside /proc",
        ),
        (
            tmpfs("/data/sys"),
            "\"/proc/sys\" cannot be mounted because it is inside /proc",
        ),
        (
            bind("/proc/sys"),
            "\"/proc/sys\" cannot be mounted because it is inside /proc",
        ),
        (tmpfs("/data3/x"), "no such file or directory"),
        (tmpfs("/proc/acpi2"), "no such file or directory"),
    ];
    for (mount, expected) in cases {
        isolated(move |world| {
            world.link("data", "/proc");
            world.link("data2", "/proc/sys/kernel");
            world.link("data3", "data/self/attr");
            let why = world.refusal(usual_and(json!([mount])));
            assert!(why.contains(expected), "{why}");
        });
    }
}

#[test]
fn proc_itself_and_the_files_of_lxcfs_may_be_volumes() {
    isolated(|world| {
        let mounts = usual_and(json!([
            {"destination": "/proc/uptime", "type": "bind", "source": "canary", "options": ["bind"]},
        ]));
        world.enter(mounts, json!({}));
        assert_eq!(fs::read_to_string("/proc/uptime").unwrap(), "alive");
    });
    isolated(|world| {
        let mounts = json!([
            {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ]);
        world.enter(mounts, json!({}));
        assert!(Path::new("/proc/self").exists());
    });
}

#[test]
fn the_terminal_follows_no_link() {
    for target in ["/mnt/host/canary", "/mnt/host/new", "console"] {
        isolated(move |world| {
            world.link("dev/console", target);
            let before = world.of_host();
            let plan = world.plan(json!([]), json!({})).unwrap();
            let root = world.prepare(plan).unwrap();
            let peer = fs::File::open("/dev/null").unwrap();
            let why = root.attach_console(peer.as_fd()).unwrap_err().to_string();
            assert!(
                why.starts_with("cannot mount the terminal at /dev/console: "),
                "{why}"
            );
            assert_eq!(world.of_host(), before);
        });
    }
}

#[test]
fn a_label_that_nobody_enforces_is_refused() {
    isolated(|world| {
        if trefoil_os::selinux::is_enabled() {
            return;
        }
        let linux = json!({"mountLabel": "system_u:object_r:container_file_t:s0:c1,c2"});
        let why = world.plan(json!([]), linux).unwrap_err().to_string();
        assert!(why.contains("selinux is disabled"), "{why}");
    });
}

#[test]
fn volumes_among_swapped_directories_are_inside() {
    isolated(|world| {
        let shared = world.root.join("vol");
        fs::create_dir_all(shared.join("real")).unwrap();
        symlink("/mnt/host", shared.join("swap")).unwrap();
        let before = world.of_host();
        while_swapping(&shared, "real", "swap", || {
            for number in 0..200 {
                let mounts = json!([
                    {"destination": format!("/vol/real/{number}"), "type": "tmpfs", "source": "t"},
                    {"destination": format!("/vol/swap/f{number}"), "type": "bind",
                     "source": "canary", "options": ["bind"]},
                ]);
                let _ = world.prepare(world.plan(mounts, json!({})).unwrap());
                nix::unistd::chdir("/").unwrap();
                let detach = nix::mount::MntFlags::MNT_DETACH;
                while nix::mount::umount2(&world.root, detach).is_ok() {}
            }
        });
        assert_eq!(world.of_host(), before);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(" /mnt/host/"), "{table}");
    });
}

#[test]
fn proc_and_sys_are_no_symlinks() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        for occupant in ["link", "file"] {
            isolated(move |world| {
                world.link(name, "/tmp");
                if occupant == "file" {
                    fs::remove_file(world.root.join(name)).unwrap();
                    fs::write(world.root.join(name), "").unwrap();
                }
                let why = world.refusal(json!(usual()));
                assert_eq!(
                    why,
                    format!(
                        "cannot mount {kind} at /{name}: filesystem {kind:?} must be mounted on \
                         ordinary directory"
                    )
                );
            });
        }
    }
}

#[test]
fn dangling_links_are_made_true_inside() {
    isolated(|world| {
        world.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
        world.link("data", "/mnt/data");
        world.link("var/run", "../../../../run");
        let socket = world.host.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mounts = usual_and(json!([
            {"destination": "/etc/resolv.conf", "type": "bind", "source": "canary", "options": ["rbind", "ro"]},
            {"destination": "/data", "type": "bind", "source": "/mnt/host", "options": ["rbind"]},
            {"destination": "/var/run/docker.sock", "type": "bind", "source": "socket", "options": ["bind"]},
        ]));
        world.enter(mounts, json!({}));
        assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), "alive");
        assert_eq!(fs::read_to_string("/mnt/data/canary").unwrap(), "alive");
        let stub = fs::metadata("/run/systemd/resolve").unwrap();
        assert_eq!(stub.mode() & 0o7777, 0o755);
        assert!(
            fs::symlink_metadata("/etc/resolv.conf")
                .unwrap()
                .is_symlink()
        );
        assert!(std::os::unix::fs::FileTypeExt::is_socket(
            &fs::metadata("/run/docker.sock").unwrap().file_type()
        ));
    });
}

#[test]
fn masks_follow_no_link_out_of_the_root() {
    isolated(|world| {
        world.link("secret", "/mnt/host/canary");
        world.link("dir", "/mnt/host");
        let linux =
            json!({"maskedPaths": ["/secret", "/dir"], "readonlyPaths": ["/dir", "/secret"]});
        let plan = world.plan(json!(usual()), linux).unwrap();
        let root = world.prepare(plan).unwrap();
        root.finish().unwrap();
        assert_eq!(
            fs::read_to_string(world.host.join("canary")).unwrap(),
            "alive"
        );
        fs::write(world.host.join("more"), "x").unwrap();
    });
}

#[test]
fn paths_resolve_as_though_the_root_were_the_root() {
    isolated(|world| {
        fs::create_dir_all(world.root.join("a/b/c")).unwrap();
        symlink("/a/b", world.root.join("abs")).unwrap();
        symlink("../../../a", world.root.join("a/b/up")).unwrap();
        symlink("loop", world.root.join("loop")).unwrap();
        symlink("/etc/passwd/", world.root.join("slash")).unwrap();
        let root = confined(&world.root);
        let same = |path: &str, real: &str| {
            let expected = identity_of(&world.root.join(real));
            let opened = root.open(Path::new(path)).unwrap();
            assert_eq!(identity(opened), expected, "{path}");
            let made = make(&root, path, Make::Directory).unwrap();
            assert_eq!(identity(made), expected, "{path}");
        };
        same("abs/c", "a/b/c");
        same("/abs/../b/./c//", "a/b/c");
        same("a/b/up/b/c", "a/b/c");
        same("..", "");
        same("../../a", "a");
        same("a/b/../..", "");
        same("", "");
        assert_eq!(make(&root, "loop", Make::File).unwrap_err(), Errno::LOOP);
        assert_eq!(make(&root, "loop/x", Make::File).unwrap_err(), Errno::LOOP);
        assert_eq!(
            make(&root, "etc/passwd/x", Make::File).unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(make(&root, "abs/..", Make::File).unwrap_err(), Errno::ISDIR);
        assert_eq!(root.open(Path::new("nothing")).unwrap_err(), Errno::NOENT);
        assert_eq!(root.place(Path::new("a/..")).unwrap_err(), Errno::ISDIR);
        assert_eq!(
            root.open_straight(Path::new("abs/c"), false).unwrap_err(),
            Errno::LOOP
        );
    });
}

#[test]
fn long_names_and_paths_work() {
    isolated(|world| {
        let root = confined(&world.root);
        let name = "n".repeat(255);
        let path = vec![name.as_str(); 20].join("/");
        assert!(path.len() > 4096);
        let made = make(&root, &path, Make::Directory).unwrap();
        assert_eq!(
            identity(&made),
            identity(root.open(Path::new(&path)).unwrap())
        );
        assert_eq!(
            make(&root, &"n".repeat(256), Make::File).unwrap_err(),
            Errno::NAMETOOLONG
        );
        let deep = vec!["d"; 300].join("/");
        make(
            &root,
            &format!("{deep}/{}", vec![".."; 299].join("/")),
            Make::Directory,
        )
        .unwrap();
        let mounts = usual_and(json!([
            {"destination": format!("/{path}"), "type": "tmpfs", "source": "tmpfs"},
            {"destination": format!("/{path}/{name}"), "type": "bind", "source": "canary", "options": ["bind"]},
        ]));
        let plan = world.plan(mounts, json!({})).unwrap();
        world.prepare(plan).unwrap();
    });
}

#[test]
fn names_need_not_be_text() {
    isolated(|world| {
        let root = confined(&world.root);
        let name = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\n/\\ b"));
        let found = root.make(name, || Ok(Make::File)).unwrap();
        assert!(!found.existed && found.straight);
        assert_eq!(identity(found.fd), identity_of(&world.root.join(name)));
        assert_eq!(cleaned(Path::new("/../a/./b/../..//c")), Path::new("c"));
    });
}

/// Lets a neighbour exchange two entries of a directory all the time meanwhile.
fn while_swapping(directory: &Path, one: &str, other: &str, test: impl FnOnce()) {
    let (one, other) = (directory.join(one), directory.join(other));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        test();
        done.store(true, Ordering::Relaxed);
    });
}

fn race(what: Make, paths: &[&str]) {
    isolated(|world: &World| {
        let shared = world.root.join("vol");
        fs::create_dir_all(shared.join("real/sub")).unwrap();
        symlink("../../../../../../../mnt/host", shared.join("swap")).unwrap();
        symlink(&world.host, shared.join("abs")).unwrap();
        let before = world.of_host();
        let root = confined(&world.root);
        while_swapping(&shared, "real", "swap", || {
            for number in 0..10_000 {
                for path in paths {
                    let path = PathBuf::from(format!("{path}/{}", number % 50));
                    let _ = root.make(&path, || Ok(what));
                    let _ = root.place(&path);
                    let _ = root.open(&path);
                }
            }
        });
        assert_eq!(world.of_host(), before);
        // What a link to the host's means inside was made there, so the race was run.
        assert!(world.root.join("mnt/host").exists());
        assert!(shared.join("real").exists() && shared.join("swap").exists());
    });
}

#[test]
fn directories_that_are_swapped_for_links_lead_nowhere() {
    race(Make::Directory, &["vol/real/a/b", "vol/swap/../swap/c"]);
}

#[test]
fn files_that_are_swapped_for_links_lead_nowhere() {
    race(Make::File, &["vol/real/sub/../d", "vol/real/x"]);
}

#[test]
fn devices_among_swapped_directories_are_inside() {
    isolated(|world| {
        let shared = world.root.join("vol");
        fs::create_dir_all(shared.join("real")).unwrap();
        symlink("/mnt/host", shared.join("swap")).unwrap();
        let before = world.of_host();
        while_swapping(&shared, "real", "swap", || {
            for number in 0..200 {
                let devices = json!([
                    {"path": format!("/vol/real/{number}"), "type": "c", "major": 1, "minor": 3, "uid": 5},
                ]);
                let plan = world.plan(json!([]), json!({"devices": devices})).unwrap();
                let _ = world.prepare(plan);
                nix::unistd::chdir("/").unwrap();
                let detach = nix::mount::MntFlags::MNT_DETACH;
                while nix::mount::umount2(&world.root, detach).is_ok() {}
            }
        });
        assert_eq!(world.of_host(), before);
    });
}
