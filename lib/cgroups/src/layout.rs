//! Where the cgroup of a container is.
//!
//! A systemd unit is made by libcgroups, all else by us. What is computed here must name the
//! directories that libcontainer made in the past, also where that differs from other runtimes:
//! containers outlive an update of the runtime.
//!
//! - The path is joined to the mount point of the hierarchy as it is. A process that is itself
//!   inside a container sees its own part of the hierarchy mounted, so this is right there too; the
//!   cgroup that the process itself runs in plays no role.
//! - `slice:prefix:name` means a systemd unit only on cgroup v2 and only if systemd was asked for.
//!   Everywhere else it is an ordinary directory name with colons.
//! - An absolute path is an ordinary path even if systemd was asked for.
//! - Without a path the container gets `:youki:<id>`.
//!
//! On v1 the container gets a cgroup in every hierarchy that is mounted: in those with controllers, in
//! those that are merely named (`name=systemd`), and in v2's where there is one beside them.
//!
//! One thing is stricter: a path that leaves the hierarchy by `..`, or that is its root, is
//! refused. Killing "all processes of the container" must not be able to mean all processes of the
//! machine.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use libcgroups::common::{CgroupSetup, DEFAULT_CGROUP_ROOT, get_cgroup_setup};

use super::error::{Doing, Error, Result, no_hierarchy};
use super::hierarchies::{self, Mounted};

/// The controllers of v1 that this crate knows, by the kernel's names.
const V1_CONTROLLERS: [(Controller, &str); 13] = [
    // The freezer comes first: it is where processes are stopped.
    (Controller::Freezer, "freezer"),
    (Controller::Devices, "devices"),
    (Controller::Pids, "pids"),
    (Controller::Memory, "memory"),
    (Controller::Cpu, "cpu"),
    (Controller::CpuAcct, "cpuacct"),
    (Controller::CpuSet, "cpuset"),
    (Controller::Blkio, "blkio"),
    (Controller::HugeTlb, "hugetlb"),
    (Controller::PerfEvent, "perf_event"),
    (Controller::NetPrio, "net_prio"),
    (Controller::NetCls, "net_cls"),
    (Controller::Rdma, "rdma"),
];

/// Where a hybrid machine has its v2 hierarchy, which has no controllers there.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// A controller of cgroup v1, or what a hierarchy is that has none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Freezer,
    Devices,
    Pids,
    Memory,
    Cpu,
    CpuAcct,
    CpuSet,
    Blkio,
    HugeTlb,
    PerfEvent,
    NetPrio,
    NetCls,
    Rdma,
    /// A hierarchy of v1 with a name only, or with controllers that nothing is said about here.
    Other,
    /// The v2 hierarchy of a hybrid machine.
    Unified,
}

/// The directories of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One per controller, and one per hierarchy that has none; controllers mounted together share
    /// theirs.
    V1(Vec<(Controller, PathBuf)>),
    V2(PathBuf),
}

impl Layout {
    /// The directories of the cgroup above.
    pub(super) fn parent(&self) -> Option<Self> {
        let above = |dir: &PathBuf| dir.parent().map(Path::to_path_buf);
        match self {
            Self::V1(dirs) => {
                let dirs = dirs.iter();
                let above = dirs.map(|(controller, dir)| Some((*controller, above(dir)?)));
                above.collect::<Option<_>>().map(Self::V1)
            }
            Self::V2(dir) => above(dir).map(Self::V2),
        }
    }
}

/// Where a cgroup is below the mount points, and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Relative, without `.` and `..`, not empty.
    pub relative: PathBuf,
    /// The systemd unit that it is the cgroup of.
    pub unit: Option<String>,
}

/// What libcgroups is told: the path of the OCI spec or what libcontainer put in its place.
pub(super) fn effective_path(cgroups_path: Option<&Path>, id: &str) -> PathBuf {
    cgroups_path.map_or_else(|| PathBuf::from(format!(":youki:{id}")), Path::to_path_buf)
}

/// Finds the directories of a container's cgroup on this machine, and its place below the mount
/// points.
pub(super) fn find(
    cgroups_path: Option<&Path>,
    id: &str,
    systemd: bool,
) -> Result<(Layout, Location)> {
    let setup = get_cgroup_setup().map_err(no_hierarchy)?;
    let unified = matches!(setup, CgroupSetup::Unified);
    let path = effective_path(cgroups_path, id);
    // Asked only when it matters: reading it is one more file.
    let root = if unified && systemd && !path.is_absolute() {
        systemd_root()?
    } else {
        PathBuf::new()
    };
    let place = locate(&path, systemd && unified, &root).map_err(|reason| {
        let doing = format!("use cgroups path {:?} for container {id:?}", path.display());
        Error::invalid(doing, reason)
    })?;
    if unified {
        let dir = Path::new(DEFAULT_CGROUP_ROOT).join(&place.relative);
        return Ok((Layout::V2(dir), place));
    }
    let mounts = v1_mounts(&hierarchies::mounted()?);
    if mounts.is_empty() {
        return Err(no_hierarchy("no cgroup v1 controller is mounted"));
    }
    let hybrid =
        matches!(setup, CgroupSetup::Hybrid).then(|| (Controller::Unified, PathBuf::from(HYBRID)));
    let dirs = mounts
        .into_iter()
        .chain(hybrid)
        .map(|(controller, mount)| (controller, mount.join(&place.relative)))
        .collect();
    let place = Location {
        unit: None,
        ..place
    };
    Ok((Layout::V1(dirs), place))
}

/// A cgroup that this process is in.
#[derive(Clone, Debug)]
pub(super) struct CurrentCgroup {
    /// Where its hierarchy is mounted.
    pub mount: PathBuf,
    /// Its directory.
    pub directory: PathBuf,
}

/// The cgroups that this process is in, of the hierarchies that containers are put under.
pub(super) fn current() -> Result<Vec<CurrentCgroup>> {
    let setup = get_cgroup_setup().map_err(no_hierarchy)?;
    let file = Path::new("/proc/self/cgroup");
    let cgroups = fs::read_to_string(file).doing("read", file)?;
    if matches!(setup, CgroupSetup::Unified) {
        let path = path_in(&cgroups, "").unwrap_or("/");
        return Ok(vec![below_mount(Path::new(DEFAULT_CGROUP_ROOT), path)]);
    }
    let mounted = hierarchies::mounted()?;
    let v1 = mounted.iter().map(|mounted| {
        let name = mounted.entries.first().map_or("", String::as_str);
        below_mount(&mounted.point, path_in(&cgroups, name).unwrap_or("/"))
    });
    let hybrid = matches!(setup, CgroupSetup::Hybrid)
        .then(|| below_mount(Path::new(HYBRID), path_in(&cgroups, "").unwrap_or("/")));
    Ok(v1.chain(hybrid).collect())
}

/// The path that `/proc/<pid>/cgroup` tells for a v1 controller, or for v2's hierarchy, which has no
/// name.
pub(super) fn path_in<'a>(cgroups: &'a str, name: &str) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers
            .split(',')
            .any(|one| one == name)
            .then_some(path)
    })
}

/// A process that is itself in a container may see nothing but its own cgroup mounted, and its path as
/// the host knows it: then the mount is where it is.
fn below_mount(mount: &Path, path: &str) -> CurrentCgroup {
    let mount = mount.to_owned();
    let directory = match normalise(Path::new(path)).map(|relative| mount.join(relative)) {
        Ok(directory) if directory.is_dir() => directory,
        _ => mount.clone(),
    };
    CurrentCgroup { mount, directory }
}

/// The cgroup that systemd's tree starts at: systemd itself lives in `init.scope` below it.
fn systemd_root() -> Result<PathBuf> {
    let file = Path::new("/proc/1/cgroup");
    let content = fs::read_to_string(file).doing("read", file)?;
    let own = path_in(&content, "").unwrap_or("/");
    Ok(PathBuf::from(
        own.strip_suffix("/init.scope").unwrap_or(own),
    ))
}

/// Computes the place of a cgroup from the path of the OCI spec.
pub(super) fn locate(
    path: &Path,
    systemd: bool,
    systemd_root: &Path,
) -> std::result::Result<Location, &'static str> {
    if systemd && !path.is_absolute() {
        let (scope, unit) = unit(path)?;
        let relative = normalise(&join_below(systemd_root, &scope).join(&unit))?;
        return Ok(Location {
            relative,
            unit: Some(unit),
        });
    }
    Ok(Location {
        relative: normalise(path)?,
        unit: None,
    })
}

/// The slice's directory and the name of the unit in it.
fn unit(path: &Path) -> std::result::Result<(PathBuf, String), &'static str> {
    let text = path.to_str().ok_or("it is not UTF-8")?;
    let parts: Vec<&str> = text.split(':').collect();
    let (slice, prefix, name) = match parts.as_slice() {
        [prefix, name] => ("", *prefix, *name),
        [slice, prefix, name] => (*slice, *prefix, *name),
        _ => return Err("for systemd it must have the form slice:prefix:name"),
    };
    if prefix.contains('/') || name.contains('/') {
        return Err("a systemd unit's name contains no slash");
    }
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else {
        format!("{prefix}-{name}.scope")
    };
    Ok((expand_slice(slice)?, unit))
}

/// `a-b.slice` lies in `a.slice`: the dashes of a slice's name are its path.
fn expand_slice(slice: &str) -> std::result::Result<PathBuf, &'static str> {
    const SUFFIX: &str = ".slice";
    if slice.len() <= SUFFIX.len() || !slice.ends_with(SUFFIX) || slice.contains('/') {
        return Err("its slice is not the name of a systemd slice");
    }
    let name = slice.trim_end_matches(SUFFIX);
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err("its slice has an empty part");
        }
        prefix.push_str(part);
        path.push(format!("{prefix}{SUFFIX}"));
        prefix.push('-');
    }
    Ok(path)
}

/// Joins as below a directory, whether or not `path` is absolute.
fn join_below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a path relative to a mount point, and sure that it stays below it.
fn normalise(path: &Path) -> std::result::Result<PathBuf, &'static str> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name.as_bytes().contains(&0) => {
                return Err("it contains a NUL byte");
            }
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err("it contains .."),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.as_os_str().is_empty() {
        return Err("it is the root of the hierarchy, which other processes live in");
    }
    Ok(clean)
}

/// The mount points of the controllers, in our order, and of the hierarchies without any.
fn v1_mounts(mounted: &[Mounted]) -> Vec<(Controller, PathBuf)> {
    let known = V1_CONTROLLERS.iter().filter_map(|(controller, name)| {
        let mounted = mounted.iter().find(|mounted| mounted.has(name))?;
        Some((*controller, mounted.point.clone()))
    });
    let others = mounted
        .iter()
        .filter(|mounted| !V1_CONTROLLERS.iter().any(|(_, name)| mounted.has(name)))
        .map(|mounted| (Controller::Other, mounted.point.clone()));
    known.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relative(path: &str, systemd: bool) -> std::result::Result<String, &'static str> {
        locate(Path::new(path), systemd, Path::new("/"))
            .map(|place| place.relative.to_str().unwrap().to_owned())
    }

    #[test]
    fn plain_paths_are_taken_below_the_mount_point() {
        assert_eq!(relative("/k8s.io/abc", false).unwrap(), "k8s.io/abc");
        assert_eq!(relative("k8s.io//./abc/", false).unwrap(), "k8s.io/abc");
        assert_eq!(relative("/k8s.io/abc", true).unwrap(), "k8s.io/abc");
    }

    #[test]
    fn a_processs_own_paths_are_told_by_controller() {
        let cgroups = "4:cpu,cpuacct:/a\n3:name=systemd:/b:c\n0::/d\n";
        assert_eq!(path_in(cgroups, "cpuacct"), Some("/a"));
        assert_eq!(path_in(cgroups, "name=systemd"), Some("/b:c"));
        assert_eq!(path_in(cgroups, ""), Some("/d"));
        assert_eq!(path_in(cgroups, "memory"), None);
        assert_eq!(path_in("nonsense", ""), None);
    }

    #[test]
    fn systemd_paths_are_expanded_only_for_systemd() {
        let path = "kubepods-burstable-pod1_2.slice:cri-containerd:abc";
        assert_eq!(
            relative(path, true).unwrap(),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope"
        );
        assert_eq!(relative(path, false).unwrap(), path);
        let place = locate(Path::new(path), true, Path::new("/")).unwrap();
        assert_eq!(place.unit.as_deref(), Some("cri-containerd-abc.scope"));
        assert_eq!(
            relative(":youki:abc", true).unwrap(),
            "system.slice/youki-abc.scope"
        );
        assert_eq!(relative("-.slice:p:n", true).unwrap(), "p-n.scope");
        assert_eq!(
            relative("a.slice:p:n.slice", true).unwrap(),
            "a.slice/n.slice"
        );
    }

    #[test]
    fn the_tree_of_a_systemd_inside_a_container_is_respected() {
        let place = locate(Path::new("a.slice:p:n"), true, Path::new("/docker/1")).unwrap();
        assert_eq!(place.relative, Path::new("docker/1/a.slice/p-n.scope"));
    }

    #[test]
    fn without_a_path_it_is_what_libcontainer_uses() {
        assert_eq!(effective_path(None, "abc"), libcontainer_default("abc"));
    }

    /// `libcontainer::utils::get_cgroup_path` is public: the crate itself is asked.
    fn libcontainer_default(id: &str) -> PathBuf {
        libcontainer::utils::get_cgroup_path(&None, id)
    }

    #[test]
    fn the_root_and_ways_out_are_refused() {
        for path in ["", "/", "/.", "..", "/a/../..", "a/.."] {
            assert!(relative(path, false).is_err(), "{path:?}");
        }
        for path in [
            "a:b:c:d",
            "abc",
            "a.slice:p/../..:n",
            "a/b.slice:p:n",
            "a--b.slice:p:n",
            ".slice:p:n",
        ] {
            assert!(relative(path, true).is_err(), "{path:?}");
        }
    }

    #[test]
    fn controllers_come_in_our_order_and_named_hierarchies_last() {
        let mounted = |point: &str, entries: &[&str]| Mounted {
            point: PathBuf::from(point),
            entries: entries.iter().map(|entry| (*entry).to_owned()).collect(),
        };
        let all = [
            mounted("/systemd", &["name=systemd"]),
            mounted("/both", &["cpu", "cpuacct"]),
            mounted("/freezer", &["freezer"]),
            mounted("/misc", &["misc"]),
        ];
        let expected = [
            (Controller::Freezer, "/freezer"),
            (Controller::Cpu, "/both"),
            (Controller::CpuAcct, "/both"),
            (Controller::Other, "/systemd"),
            (Controller::Other, "/misc"),
        ];
        assert_eq!(
            v1_mounts(&all),
            expected.map(|(controller, point)| (controller, PathBuf::from(point)))
        );
    }

    /// On a machine with cgroup v1, what libcgroups knows must be where it knows it: older containers
    /// live there.
    #[test]
    fn v1_mounts_agree_with_libcgroups() {
        let theirs = libcgroups::v1::util::list_supported_mount_points().unwrap();
        let ours = v1_mounts(&hierarchies::mounted().unwrap());
        for point in theirs.values() {
            assert!(
                ours.iter().any(|(_, ours)| ours == point),
                "{point:?} is missing"
            );
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_hierarchy(path in "(/|\\.|a|:|-|\\.slice){0,12}", systemd: bool) {
            if let Ok(place) = locate(Path::new(&path), systemd, Path::new("/")) {
                prop_assert!(place.relative.is_relative());
                prop_assert!(place.relative.components().count() > 0);
                prop_assert!(place.relative.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }

        #[test]
        fn slices_nest_by_their_dashes(parts in prop::collection::vec("[a-z0-9_]{1,6}", 1..6)) {
            let path = format!("{}.slice:cri:id", parts.join("-"));
            let place = locate(Path::new(&path), true, Path::new("/")).unwrap();
            prop_assert_eq!(place.relative.components().count(), parts.len() + 1);
            let slice = place.relative.parent().unwrap().file_name().unwrap();
            prop_assert_eq!(slice.to_str().unwrap(), format!("{}.slice", parts.join("-")));
        }
    }
}
