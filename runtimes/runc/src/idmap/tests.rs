//! With the kernel: who owns what one sees, and that nothing stays mounted. These need root.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as mount_now, umount2};
use oci_spec::runtime::LinuxIdMapping;
use trefoil_core::Mount as RootMount;
use trefoil_os::mountinfo;

use super::mapping::{Mappings, parse};
use crate::rootfs;

const HOST: u32 = 200_000;

fn ids() -> Vec<LinuxIdMapping> {
    parse(&format!("0:{HOST}:65536")).expect("mapping")
}

/// A directory on a shared mount of its own, as on hosts with systemd: what is mounted below in one
/// namespace would be seen in all.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").expect("directory");
        let path = directory.path();
        let none = None::<&str>;
        mount_now(Some(path), path, none, MsFlags::MS_BIND, none).expect("bind");
        mount_now(none, path, none, MsFlags::MS_SHARED, none).expect("share");
        Self(directory)
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).expect("directory");
        path
    }

    /// How many mounts are below it, in the namespace where this is called.
    fn mounts(&self) -> usize {
        let prefix = format!(" {}/", self.0.path().display());
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        mounts.lines().filter(|line| line.contains(&prefix)).count()
    }

    /// The same, in the namespace of the test program's first thread.
    fn mounts_of_host(&self) -> usize {
        let prefix = format!(" {}/", self.0.path().display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        mounts.lines().filter(|line| line.contains(&prefix)).count()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        while umount2(self.0.path(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let status = fs::symlink_metadata(path).expect("status");
    (status.uid(), status.gid())
}

/// Each child that is forked for one has what is open for the others.
#[test]
fn namespaces_are_made_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mappings = Mappings::given(Some(&ids()), Some(&ids())).expect("mappings");
                let mappings = mappings.expect("some");
                for _ in 0..20 {
                    mappings.namespace().expect("namespace");
                }
            });
        }
    });
}

#[test]
fn a_namespace_has_its_mapping() {
    let mappings = Mappings::given(Some(&ids()), Some(&ids())).expect("mappings");
    let namespace = mappings.expect("some").namespace().expect("namespace");
    drop(namespace);
    let twice = parse("0:1000:10,5:2000:10").expect("mapping");
    let mappings = Mappings::given(Some(&twice), Some(&twice)).expect("mappings");
    let why = mappings
        .expect("some")
        .namespace()
        .expect_err("they overlap");
    assert!(why.to_string().contains("0 1000 10, 5 2000 10"), "{why}");
}

#[test]
fn a_namespace_of_other_mappings_is_told() {
    let others = parse(&format!("0:{HOST}:65535")).expect("mapping");
    let own_ids = ids();
    let mappings = |users: &[LinuxIdMapping], groups: &[LinuxIdMapping]| {
        let given = Mappings::given(Some(users), Some(groups));
        given.expect("mappings").expect("some")
    };
    let own = mappings(&own_ids, &own_ids);
    let namespace = own.namespace().expect("namespace");
    own.check_those_of(Some(namespace.as_fd()))
        .expect("its own");
    for (users, groups, what) in [(&others, &own_ids, "users"), (&own_ids, &others, "groups")] {
        let other = mappings(users, groups);
        let why = other
            .check_those_of(Some(namespace.as_fd()))
            .expect_err(what);
        let expected =
            format!("it maps {what} as 0 {HOST} 65536, and the configuration as 0 {HOST} 65535");
        assert_eq!(why.to_string(), expected);
    }
}

#[test]
fn overlay_shows_its_layers_with_mapped_owners() {
    // A shared mount may hold the layers, but an overlay may not be upper of another.
    let shared = Shared::new();
    let (lower, upper, work) = (shared.make("a"), shared.make("u"), shared.make("w"));
    let target = shared.make("rootfs");
    fs::write(lower.join("file"), "x").expect("file");
    chown(lower.join("file"), Some(3), Some(4)).expect("chown");
    let second = shared.make("b");
    fs::write(second.join("other"), "y").expect("file");
    let mapping = format!("0:{HOST}:65536");
    let mount = RootMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("uidmap={mapping}"),
            format!("gidmap={mapping}"),
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}:{}", lower.display(), second.display()),
        ],
    };
    rootfs::mount(std::slice::from_ref(&mount), &target).expect("mount");
    assert_eq!(owner(&target.join("file")), (HOST + 3, HOST + 4));
    assert_eq!(owner(&target.join("other")), (HOST, HOST));
    fs::write(target.join("new"), "z").expect("it can be written to");
    assert!(upper.join("new").exists());
    assert_eq!(shared.mounts(), 1, "only the root itself");
    assert_eq!(mountinfo::unmount_all(&target).expect("unmount"), 1);
    assert_eq!((shared.mounts(), shared.mounts_of_host()), (0, 0));
    assert_eq!(owner(&lower.join("file")), (3, 4));
}

#[test]
fn many_layers_fit() {
    let shared = Shared::new();
    let target = shared.make("rootfs");
    let layers: Vec<String> = (0..100)
        .map(|number| {
            let layer = shared.make(&format!("layers-with-a-long-name/snapshots/{number}/fs"));
            fs::write(layer.join(format!("file{number}")), "x").expect("file");
            layer.display().to_string()
        })
        .collect();
    let mount = RootMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}", layers.join(":")),
            format!("uidmap=0:{HOST}:65536"),
            format!("gidmap=0:{HOST}:65536"),
        ],
    };
    let before = std::env::current_dir().expect("directory");
    rootfs::mount(std::slice::from_ref(&mount), &target).expect("mount");
    assert_eq!(std::env::current_dir().expect("directory"), before);
    assert_eq!(owner(&target.join("file99")), (HOST, HOST));
    assert_eq!(mountinfo::unmount_all(&target).expect("unmount"), 1);
}

#[test]
fn a_bound_root_is_mapped_itself() {
    let shared = Shared::new();
    let (source, target) = (shared.make("source"), shared.make("rootfs"));
    fs::write(source.join("file"), "x").expect("file");
    let mount = RootMount {
        kind: "bind".into(),
        source: source.display().to_string(),
        target: String::new(),
        options: vec![
            "rbind".into(),
            "ro".into(),
            format!("uidmap=0:{HOST}:65536"),
            format!("gidmap=0:{HOST}:65536"),
        ],
    };
    rootfs::mount(std::slice::from_ref(&mount), &target).expect("mount");
    assert_eq!(owner(&target.join("file")), (HOST, HOST));
    assert!(fs::write(target.join("new"), "z").is_err(), "read-only");
    assert_eq!(mountinfo::unmount_all(&target).expect("unmount"), 1);
    assert_eq!(shared.mounts(), 0);
}

#[test]
fn a_failed_root_leaves_nothing() {
    let shared = Shared::new();
    let (lower, target) = (shared.make("a"), shared.make("rootfs"));
    let mount = RootMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("uidmap=0:{HOST}:65536"),
            format!("gidmap=0:{HOST}:65536"),
            format!("lowerdir={}", lower.display()),
            "nonsense=1".into(),
        ],
    };
    assert!(rootfs::mount(std::slice::from_ref(&mount), &target).is_err());
    assert_eq!((shared.mounts(), shared.mounts_of_host()), (0, 0));
    assert_eq!(fs::read_dir(&target).expect("target").count(), 0);
}
