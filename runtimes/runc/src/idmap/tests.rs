//! With the kernel: who owns what one sees, and that nothing stays mounted. These need root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as mount_now, umount2};
use oci_spec::runtime::{
    LinuxBuilder, LinuxIdMapping, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
    Spec, SpecBuilder,
};
use trefoil_core::Mount as RootMount;

use super::mapping::{Mappings, parse};
use super::prepare;
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

fn bind(source: &Path, options: &[&str]) -> MountBuilder {
    MountBuilder::default()
        .destination("/data")
        .typ("bind")
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
}

fn spec(mounts: Vec<Mount>) -> Spec {
    SpecBuilder::default()
        .mounts(mounts)
        .linux(LinuxBuilder::default().build().expect("linux"))
        .build()
        .expect("spec")
}

fn with_user_namespace(mut spec: Spec) -> Spec {
    let user = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::User)
        .build()
        .expect("namespace");
    let linux = LinuxBuilder::default()
        .namespaces([user])
        .uid_mappings(ids())
        .gid_mappings(ids())
        .build()
        .expect("linux");
    spec.set_linux(Some(linux));
    spec
}

fn source_of(spec: &Spec, number: usize) -> PathBuf {
    let mounts = spec.mounts().as_ref().expect("mounts");
    mounts[number].source().clone().expect("source")
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
fn a_volume_is_seen_with_mapped_owners_and_only_here() {
    let shared = Shared::new();
    let (volume, bundle) = (shared.make("volume"), shared.make("bundle"));
    fs::write(volume.join("file"), "x").expect("file");
    chown(volume.join("file"), Some(5), Some(7)).expect("chown");

    let mount = bind(&volume, &["rbind", "rw"])
        .uid_mappings(ids())
        .gid_mappings(ids())
        .build()
        .expect("mount");
    let mut spec = spec(vec![mount]);
    let shelf = bundle.join("mounts");
    let prepared = prepare(&mut spec, &bundle, &shelf).expect("prepare");

    let source = source_of(&spec, 0);
    assert_eq!(owner(&source.join("file")), (HOST + 5, HOST + 7));
    let mount = &spec.mounts().as_ref().expect("mounts")[0];
    assert!(mount.uid_mappings().is_none() && mount.gid_mappings().is_none());
    assert_eq!(shared.mounts(), 2, "the shelf and the volume");
    assert_eq!(shared.mounts_of_host(), 0, "the host sees none of it");

    drop(prepared);
    assert_eq!(shared.mounts(), 0);
    assert_eq!(fs::read_dir(&shelf).expect("shelf").count(), 0);
    assert_eq!(owner(&volume.join("file")), (5, 7));
}

#[test]
fn options_ask_for_the_containers_mapping() {
    let shared = Shared::new();
    let (volume, bundle) = (shared.make("volume"), shared.make("bundle"));
    fs::write(volume.join("file"), "x").expect("file");
    let file = volume.join("file");
    let mounts = vec![
        bind(&volume, &["bind", "idmap"]).build().expect("mount"),
        bind(&file, &["bind", "ro"]).build().expect("mount"),
    ];
    let mut spec = with_user_namespace(spec(mounts));
    let prepared = prepare(&mut spec, &bundle, &bundle.join("mounts")).expect("prepare");
    assert_eq!(owner(&source_of(&spec, 0).join("file")), (HOST, HOST));
    // Not mapped, but made here all the same: the container's root may not reach the source.
    assert_eq!(owner(&source_of(&spec, 1)), (0, 0));
    assert_ne!(source_of(&spec, 1), file);
    let mount = &spec.mounts().as_ref().expect("mounts")[0];
    assert_eq!(mount.options().as_deref(), Some(&["bind".to_owned()][..]));

    let linux = spec.linux().as_ref().expect("linux");
    let path = linux.namespaces().as_ref().expect("namespaces")[0].path();
    let path = path.clone().expect("a path");
    assert!(fs::metadata(&path).is_ok(), "the namespace is there");
    drop(prepared);
    assert_eq!((shared.mounts(), shared.mounts_of_host()), (0, 0));
}

#[test]
fn namespaces_are_opened_but_ones_own_are_left_out() {
    let namespace = |kind, path: Option<&str>| {
        let mut builder = LinuxNamespaceBuilder::default().typ(kind);
        if let Some(path) = path {
            builder = builder.path(path);
        }
        builder.build().expect("namespace")
    };
    let other = Mappings::given(Some(&ids()), Some(&ids())).expect("mappings");
    let other = other.expect("some").namespace().expect("namespace");
    let other = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&other));
    let linux = LinuxBuilder::default()
        .namespaces([
            namespace(
                LinuxNamespaceType::Network,
                Some("/proc/thread-self/ns/net"),
            ),
            namespace(LinuxNamespaceType::Ipc, None),
            namespace(LinuxNamespaceType::User, Some(&other)),
        ])
        .build()
        .expect("linux");
    let mut spec = spec(Vec::new());
    spec.set_linux(Some(linux));
    let _prepared = prepare(&mut spec, Path::new("/"), Path::new("/no")).expect("prepare");
    let linux = spec.linux().as_ref().expect("linux");
    let all = linux.namespaces().as_ref().expect("namespaces");
    assert_eq!(all[0], namespace(LinuxNamespaceType::Ipc, None));
    assert_eq!(all[1].typ(), LinuxNamespaceType::User);
    assert!(
        all[1]
            .path()
            .as_ref()
            .is_some_and(|path| *path != Path::new(&other))
    );
    assert_eq!(all.len(), 2);
}

#[test]
fn ridmap_maps_what_is_mounted_below_too() {
    let shared = Shared::new();
    let (volume, bundle) = (shared.make("volume"), shared.make("bundle"));
    let below = shared.make("volume/below");
    let none = None::<&str>;
    let other = shared.make("other");
    mount_now(Some(&other), &below, none, MsFlags::MS_BIND, none).expect("bind");
    for (option, expected) in [("idmap", 0), ("ridmap", HOST)] {
        let mount = bind(&volume, &["rbind", option]).build().expect("mount");
        let mut spec = with_user_namespace(spec(vec![mount]));
        let shelf = bundle.join(option);
        let prepared = prepare(&mut spec, &bundle, &shelf).expect("prepare");
        let source = source_of(&spec, 0);
        assert_eq!(owner(&source).0, HOST);
        assert_eq!(owner(&source.join("below")).0, expected, "{option}");
        drop(prepared);
    }
    assert_eq!(shared.mounts(), 1, "the one we made");
}

#[test]
fn without_a_user_namespace_other_mounts_are_left_alone() {
    let shared = Shared::new();
    let bundle = shared.make("bundle");
    let given = spec(vec![bind(&bundle, &["rbind"]).build().expect("mount")]);
    let mut changed = given.clone();
    let prepared = prepare(&mut changed, &bundle, &bundle.join("mounts")).expect("prepare");
    assert_eq!(changed, given);
    assert_eq!(shared.mounts(), 0);
    assert!(!bundle.join("mounts").exists());
    drop(prepared);
}

#[test]
fn what_cannot_be_mapped_is_told_and_leaves_nothing() {
    let shared = Shared::new();
    let bundle = shared.make("bundle");
    for (source, what) in [
        (Path::new("/proc"), "map the ids of /proc"),
        (Path::new("/no/such/place"), "open /no/such/place"),
    ] {
        let mount = bind(source, &["bind", "idmap"]).build().expect("mount");
        let mut spec = with_user_namespace(spec(vec![mount]));
        let why = prepare(&mut spec, &bundle, &bundle.join("mounts")).expect_err("refused");
        assert!(why.to_string().contains(what), "{why}");
    }
    let mut alone = spec(vec![
        bind(&bundle, &["bind", "idmap"]).build().expect("mount"),
    ]);
    let why = prepare(&mut alone, &bundle, &bundle.join("mounts")).expect_err("no mapping");
    assert!(
        why.to_string().contains("neither it nor the container"),
        "{why}"
    );
    assert_eq!((shared.mounts(), shared.mounts_of_host()), (0, 0));
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
    assert_eq!(rootfs::unmount(&target).expect("unmount"), 1);
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
    assert_eq!(rootfs::unmount(&target).expect("unmount"), 1);
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
    assert_eq!(rootfs::unmount(&target).expect("unmount"), 1);
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
