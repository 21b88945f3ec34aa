//! Roots of containers with a user namespace, prepared by one who is nobody on the host.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::LinuxIdMappingBuilder;
use serde_json::json;

use super::world::{World, isolated, open_proc, usual_and};
use crate::idmap::Mappings;
use crate::root::Root;
use trefoil_cgroups::Hierarchies;

const FIRST: u32 = 100_000;

fn namespace() -> OwnedFd {
    let ids = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(FIRST)
        .size(65_536_u32)
        .build()
        .unwrap();
    let ids = [ids];
    let mappings = Mappings::given(Some(&ids), Some(&ids)).unwrap().unwrap();
    mappings.namespace().unwrap()
}

fn give_away(path: &Path) {
    lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

/// A child that is the first of a new process namespace, opens proc for it and then waits; it shares
/// the table of descriptors. Gives the descriptor's number.
fn open_proc_in_new_namespace() -> OwnedFd {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    unshare(CloneFlags::CLONE_NEWPID).unwrap();
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without a stack of its own the child goes on with a copy of this one, as after fork.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    assert!(child >= 0);
    if child == 0 {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(open_proc().unwrap());
        std::io::Write::write_all(&mut &theirs, &number.to_ne_bytes()).unwrap();
        loop {
            nix::unistd::pause();
        }
    }
    let mut number = [0; 4];
    std::io::Read::read_exact(&mut ours, &mut number).unwrap();
    // SAFETY: the child has just made this descriptor, and leaves it to us.
    unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(number)) }
}

/// Prepares a root in a new user namespace and new others.
fn prepare(world: &World, mounts: serde_json::Value, linux: serde_json::Value) -> Root {
    let user = namespace();
    give_away(&world.root);
    let none = Hierarchies::V1(Vec::new());
    let plan = world.plan_full(mounts, linux, &none, true, Some(user.as_fd()));
    let plan = plan.unwrap();
    // Nobody but the host's root may pass.
    fs::set_permissions("/mnt", fs::Permissions::from_mode(0o700)).unwrap();
    nix::unistd::chdir(&world.root).unwrap();
    setns(&user, CloneFlags::CLONE_NEWUSER).unwrap();
    nix::unistd::setgid(0.into()).unwrap();
    nix::unistd::setuid(0.into()).unwrap();
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .unwrap();
    assert!(
        fs::metadata(&world.root).is_err(),
        "the root's path is closed"
    );
    plan.prepare(&mut || Ok(open_proc_in_new_namespace()))
        .unwrap()
}

#[test]
fn a_mapped_root_gets_what_only_the_host_may_open() {
    isolated(|world| {
        fs::create_dir(world.host.join("closed")).unwrap();
        fs::write(world.host.join("closed/file"), "inside").unwrap();
        fs::set_permissions(&world.host, fs::Permissions::from_mode(0o700)).unwrap();
        let mounts = usual_and(json!([
            {"destination": "/vol", "type": "bind", "source": "closed", "options": ["rbind", "ro"]},
            {"destination": "/mapped", "type": "bind", "source": "closed", "options": ["rbind", "idmap"]},
            {"destination": "/own", "type": "bind", "source": "closed", "options": ["rbind"],
             "uidMappings": [{"containerID": 0, "hostID": FIRST + 7, "size": 10}],
             "gidMappings": [{"containerID": 0, "hostID": FIRST + 7, "size": 10}]},
        ]));
        let linux = json!({
            "maskedPaths": ["/proc/version", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
            "devices": [{"path": "/dev/more", "type": "p"}],
        });
        let root = prepare(world, mounts, linux);
        root.pivot(false).unwrap();
        root.set_propagation().unwrap();
        root.finish().unwrap();
        assert_eq!(fs::read_to_string("/vol/file").unwrap(), "inside");
        let why = fs::write("/vol/x", "x").unwrap_err();
        assert_eq!(why.raw_os_error(), Some(libc::EROFS));
        assert_eq!(fs::metadata("/vol/file").unwrap().uid(), 65_534);
        assert_eq!(fs::metadata("/mapped/file").unwrap().uid(), 0);
        assert_eq!(fs::metadata("/own/file").unwrap().uid(), 7);
        assert_eq!(fs::metadata("/dev/null").unwrap().rdev(), 0x103);
        fs::write("/dev/null", "x").unwrap();
        assert!(fs::metadata("/dev/more").is_ok());
        // The new process namespace's.
        let processes = fs::read_dir("/proc").unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        });
        assert_eq!(processes.count(), 1);
    });
}

#[test]
fn what_the_host_forbids_a_mapped_root_cannot_allow() {
    isolated(|world| {
        let sub = world.host.join("sub");
        fs::create_dir(&sub).unwrap();
        let none = None::<&str>;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        mount(Some("t"), &sub, Some("tmpfs"), flags, none).unwrap();
        let volume = json!([
            {"destination": "/vol", "type": "bind", "source": sub, "options": ["bind"]},
            {"destination": "/all", "type": "bind", "source": world.host, "options": ["rbind"]},
        ]);
        let root = prepare(world, usual_and(volume), json!({}));
        root.pivot(false).unwrap();
        root.finish().unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        for place in ["/vol", "/all/sub"] {
            let why = mount(none, place, none, flags, none).unwrap_err();
            assert_eq!(why, nix::errno::Errno::EPERM, "{place}");
        }
        let shown = nix::mount::umount("/all/sub").unwrap_err();
        assert_eq!(shown, nix::errno::Errno::EINVAL, "it may hide something");
    });
    isolated(|world| {
        let user = namespace();
        let none = Hierarchies::V1(Vec::new());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let nothing = None::<&str>;
        mount(
            Some(&world.host),
            &world.host,
            nothing,
            MsFlags::MS_BIND,
            nothing,
        )
        .unwrap();
        mount(nothing, &world.host, nothing, flags, nothing).unwrap();
        let volume = json!([
            {"destination": "/vol", "type": "bind", "source": "/mnt/host", "options": ["bind", "rw"]},
        ]);
        let plan = world.plan_full(volume, json!({}), &none, true, Some(user.as_fd()));
        let why = plan.unwrap_err().to_string();
        assert!(
            why.ends_with("(it has flags that are locked, and cannot be cleared)"),
            "{why}"
        );
        // And back among the host's.
        assert!(fs::write("/mnt/x", "x").is_ok());
    });
}

#[test]
fn a_hosts_node_that_is_another_device_is_refused() {
    isolated(|world| {
        let user = namespace();
        let none = Hierarchies::V1(Vec::new());
        let devices = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]);
        let linux = json!({"devices": devices});
        let plan = world.plan_full(json!([]), linux, &none, true, Some(user.as_fd()));
        let why = plan.unwrap_err().to_string();
        assert_eq!(
            why,
            "cannot take the host's device /dev/null: it is another device there"
        );
        assert!(user.as_raw_fd() >= 0);
    });
}

#[test]
fn a_foreign_network_namespace_gets_a_copy_of_the_hosts_sysfs() {
    isolated(|world| {
        let user = namespace();
        give_away(&world.root);
        let none = Hierarchies::V1(Vec::new());
        let mounts = json!([
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]},
        ]);
        let plan = world.plan_full(mounts, json!({}), &none, true, Some(user.as_fd()));
        let plan = plan.unwrap();
        nix::unistd::chdir(&world.root).unwrap();
        setns(&user, CloneFlags::CLONE_NEWUSER).unwrap();
        nix::unistd::setgid(0.into()).unwrap();
        nix::unistd::setuid(0.into()).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let root = plan.prepare(&mut open_proc).unwrap();
        root.pivot(false).unwrap();
        root.finish().unwrap();
        assert!(Path::new("/sys/kernel").exists());
        assert!(!Path::new("/sys/fs/cgroup/memory").exists());
    });
}
