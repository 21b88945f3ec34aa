//! Views of cgroups.
use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::world::{isolated, mount_at, usual_and};
use trefoil_cgroups::{Hierarchies, Hierarchy};

/// A cgroup of this machine's, removed at the end.
struct Cgroups(Vec<PathBuf>);

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn own_hierarchies(name: &str) -> Option<(Cgroups, Hierarchies)> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return None;
    }
    let mut made = Vec::new();
    let mut all = Vec::new();
    let known = [
        ("memory", &["memory"] as &[&str]),
        ("pids", &["pids"]),
        ("systemd", &["none", "name=systemd"]),
    ];
    for (hierarchy, options) in known {
        if !base.join(hierarchy).join("tasks").exists() {
            continue;
        }
        let directory = base.join(hierarchy).join(name);
        fs::create_dir(&directory).unwrap();
        made.push(directory.clone());
        all.push(Hierarchy {
            name: hierarchy.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
            directory,
        });
    }
    (!made.is_empty()).then_some((Cgroups(made), Hierarchies::V1(all)))
}

fn mounts(options: &[&str]) -> serde_json::Value {
    usual_and(json!([
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options},
    ]))
}

fn look(own_namespace: bool) {
    let name = format!("trefoil-root-test-{}-{own_namespace}", std::process::id());
    let Some((made, hierarchies)) = own_hierarchies(&name) else {
        return;
    };
    isolated(|world| {
        let me = std::process::id().to_string();
        for directory in &made.0 {
            fs::write(directory.join("cgroup.procs"), &me).unwrap();
        }
        if own_namespace {
            unshare(CloneFlags::CLONE_NEWCGROUP).unwrap();
        }
        let mounts = mounts(&["ro", "nosuid", "noexec", "nodev"]);
        let plan = world.plan_with(mounts, json!({}), &hierarchies, own_namespace);
        let root = world.prepare(plan.unwrap()).unwrap();
        root.pivot(false).unwrap();
        root.finish().unwrap();
        let base = Path::new("/sys/fs/cgroup");
        assert!(
            mount_at("/sys/fs/cgroup")
                .unwrap()
                .starts_with("ro,nosuid,nodev,noexec")
        );
        for directory in &made.0 {
            let hierarchy = directory.components().nth(4).unwrap();
            let seen = base.join(hierarchy);
            let tasks = fs::read_to_string(seen.join("cgroup.procs")).unwrap();
            assert!(tasks.lines().any(|line| line == me), "{tasks:?}");
            assert!(!seen.join(&name).exists());
            assert!(fs::create_dir(seen.join("x")).is_err());
            let line = mount_at(seen.to_str().unwrap()).unwrap();
            assert!(line.starts_with("ro,nosuid,nodev,noexec"), "{line}");
        }
    });
    // The test's process has gone, and with it the last of the cgroup.
    drop(made);
}

#[test]
fn a_container_sees_its_own_cgroups_in_its_namespace() {
    look(true);
}

#[test]
fn a_container_sees_its_own_cgroups_without_a_namespace() {
    look(false);
}

/// On cgroup v2 it is the whole hierarchy, of which the kernel tells the container its place.
#[test]
fn without_a_namespace_the_one_hierarchy_is_whole() {
    let base = Path::new("/sys/fs/cgroup");
    if !base.join("cgroup.controllers").exists() {
        return;
    }
    let name = format!("trefoil-root-test-{}-whole", std::process::id());
    let directory = base.join(&name);
    fs::create_dir(&directory).unwrap();
    let made = Cgroups(vec![directory.clone()]);
    isolated(|world| {
        let plan = world.plan_with(
            mounts(&["ro"]),
            json!({}),
            &Hierarchies::V2(directory),
            false,
        );
        let root = world.prepare(plan.unwrap()).unwrap();
        root.pivot(false).unwrap();
        root.finish().unwrap();
        assert!(Path::new("/sys/fs/cgroup").join(&name).exists());
        assert!(fs::create_dir("/sys/fs/cgroup/x").is_err());
    });
    drop(made);
}

#[test]
fn controllers_that_share_a_hierarchy_are_linked() {
    let Some((made, Hierarchies::V1(mut all))) =
        own_hierarchies(&format!("trefoil-root-test-{}-links", std::process::id()))
    else {
        return;
    };
    isolated(|world| {
        all.truncate(1);
        all[0].name = "one,two".to_owned();
        let hierarchies = Hierarchies::V1(all);
        let plan = world.plan_with(mounts(&[]), json!({}), &hierarchies, false);
        let root = world.prepare(plan.unwrap()).unwrap();
        root.pivot(false).unwrap();
        root.finish().unwrap();
        assert!(Path::new("/sys/fs/cgroup/two/tasks").exists());
        let link = fs::read_link("/sys/fs/cgroup/one").unwrap();
        assert_eq!(link.to_str(), Some("one,two"));
    });
    drop(made);
}

#[test]
fn the_second_version_without_a_namespace_is_refused_beside_the_first() {
    isolated(|world| {
        let mounts = json!([{"destination": "/c", "type": "cgroup2", "source": "cgroup2"}]);
        let none = Hierarchies::V1(Vec::new());
        let why = world
            .plan_with(mounts, json!({}), &none, false)
            .unwrap_err();
        assert!(
            why.to_string().contains("would show the host's cgroups"),
            "{why}"
        );
    });
}
