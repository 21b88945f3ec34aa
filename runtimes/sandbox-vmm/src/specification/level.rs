//! Levels what differs between nodes, containerd's versions and kubelets without meaning anything in a
//! guest. A guest that believes nothing of its host compares what it is sent with what the pod's author has
//! written down once, for all nodes.
//!
//! It makes nothing pass that should not: the guest decides, and a host that levels otherwise is refused.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Spec};

/// All of a container's configuration but its process.
pub(super) fn configuration(guest: &mut Spec) {
    for mount in guest.mounts_mut().iter_mut().flatten() {
        let place = plain(mount.destination());
        mount.set_destination(place);
    }
    if let Some(linux) = guest.linux_mut() {
        self::linux(linux);
    }
}

/// A process that is run in a container.
pub(super) fn process(process: &mut Process) {
    let cwd = plain(process.cwd());
    process.set_cwd(cwd);
    let env = process.env().as_deref().map(last_of_each);
    process.set_env(env);
}

/// Of variables of one name the last, which is the one that counts: the image's and the manifest's are both
/// there. It stays where the first was.
fn last_of_each(env: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().map(str::to_owned);
    let mut kept: Vec<String> = Vec::new();
    for variable in env {
        match kept.iter_mut().find(|one| name(one) == name(variable)) {
            Some(before) => before.clone_from(variable),
            None => kept.push(variable.clone()),
        }
    }
    kept
}

/// An absolute path without empty parts, `.` and a slash at the end. `..` stays, for the guest to refuse.
fn plain(path: &Path) -> PathBuf {
    if !path.is_absolute() {
        return path.to_owned();
    }
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

fn linux(linux: &mut Linux) {
    // With cgroup v1 containerd asks for none. The guest has its own cgroups in any case.
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let kind = LinuxNamespaceType::Cgroup;
    if !namespaces.iter().any(|one| one.typ() == kind) {
        let mut cgroup = LinuxNamespace::default();
        cgroup.set_typ(kind);
        namespaces.push(cgroup);
    }
    linux.set_namespaces(Some(namespaces));
    // There is one for each processor of the node.
    let masked = linux.masked_paths().clone();
    let masked = masked.map(|mut paths| {
        paths.retain(|path| !is_of_a_processor(path));
        paths
    });
    linux.set_masked_paths(masked);
}

/// Whether a path is `/sys/devices/system/cpu/cpu<number>/thermal_throttle`.
fn is_of_a_processor(path: &str) -> bool {
    path.strip_prefix("/sys/devices/system/cpu/cpu")
        .and_then(|rest| rest.strip_suffix("/thermal_throttle"))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|one| one.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levelled(json: serde_json::Value) -> serde_json::Value {
        let mut spec: Spec = serde_json::from_value(json).expect("specification");
        process(spec.process_mut().as_mut().expect("a process"));
        configuration(&mut spec);
        serde_json::to_value(spec).expect("JSON")
    }

    #[test]
    fn what_two_nodes_send_of_one_container_is_the_same() {
        let of = |env: &[&str], cwd: &str, place: &str, cgroup: bool, masked: &[&str]| {
            let mut namespaces = vec![serde_json::json!({"type": "mount"})];
            namespaces.extend(cgroup.then(|| serde_json::json!({"type": "cgroup"})));
            serde_json::json!({
                "ociVersion": "1.2.0",
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": cwd, "env": env},
                "mounts": [{"destination": place, "type": "tmpfs", "source": "tmpfs"}],
                "linux": {"namespaces": namespaces, "maskedPaths": masked},
            })
        };
        let throttle = "/sys/devices/system/cpu/cpu12/thermal_throttle";
        let one = of(&["B=2", "PATH=/b"], "/srv", "/a/b", true, &["/proc/kcore"]);
        let other = of(
            &["B=1", "PATH=/a", "PATH=/b", "B=2"],
            "/srv/",
            "/a//b/.",
            false,
            &[throttle, "/proc/kcore"],
        );
        assert_eq!(levelled(one.clone()), levelled(other));
        // What is level stays as it is.
        assert_eq!(levelled(one.clone()), levelled(levelled(one)));
    }

    #[test]
    fn what_means_something_stays() {
        for (path, plain_path) in [
            ("/", "/"),
            ("/a/../b", "/a/../b"),
            ("//a///b//", "/a/b"),
            (".", "."),
            ("", ""),
        ] {
            assert_eq!(plain(Path::new(path)), Path::new(plain_path));
        }
        let variables = ["A=1", "B=1", "A=1=2", "A", "C"].map(str::to_owned);
        assert_eq!(last_of_each(&variables), ["A", "B=1", "C"]);
        for (path, is_one) in [
            ("/sys/devices/system/cpu/cpu0/thermal_throttle", true),
            ("/sys/devices/system/cpu/cpu/thermal_throttle", false),
            ("/sys/devices/system/cpu/cpu0/x/thermal_throttle", false),
            ("/sys/firmware", false),
        ] {
            assert_eq!(is_of_a_processor(path), is_one, "{path}");
        }
    }
}
