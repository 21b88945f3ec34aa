//! The configuration of a container as the host sends it: checked field by field, and completed with
//! the places that are the guest's to know.
//!
//! What would reach out of the container or names a place on the host is refused, and the refusal names
//! the field. What the specification has and our type of it hasn't never gets further than here: the
//! container is made of what was parsed.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxNamespaceType, LinuxResources, Mount, Root, Spec,
};
#[cfg(not(feature = "confidential"))]
use trefoil_agent_common::share;
use trefoil_core::{Error, Result};

#[cfg(not(feature = "confidential"))]
use crate::names;
use crate::refusal::refused;
use crate::{devices, sysctls};

/// No configuration is longer, in bytes: as much as one message holds.
const LONGEST: usize = 4 << 20;

/// File systems that a container may have mounted, besides what is shared. None is of a device.
const FILE_SYSTEMS: &[&str] = &[
    "cgroup", "cgroup2", "devpts", "mqueue", "proc", "sysfs", "tmpfs",
];

/// Where POSIX shared memory is, which belongs to the pod as System V's does.
const SHARED_MEMORY: &str = "/dev/shm";

/// Says where in the guest is what the source of a bind mount names.
pub(crate) type Place<'a> = dyn FnMut(&str) -> Result<PathBuf> + 'a;

/// Reads a container's configuration, and makes it what a container of this name is made from once there is
/// something at the places that `volume` has told.
///
/// # Errors
/// [`trefoil_core::ErrorKind::InvalidArgument`], with the field that is not to be.
pub(crate) fn read(container: &str, json: &[u8], volume: &mut Place<'_>) -> Result<Spec> {
    let mut spec: Spec = parse("configuration", json)?;
    check_top(&spec)?;
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| refused("linux", "it is missing"))?;
    check_linux(linux)?;
    linux.set_cgroups_path(Some(Path::new("/pod").join(container)));
    // The guest's kernel knows no labels: they are the host's, for the VMM's process.
    linux.set_mount_label(None);
    let has_ipc = has(linux, LinuxNamespaceType::Ipc);
    for mount in spec.mounts_mut().iter_mut().flatten() {
        place(mount, has_ipc, volume)?;
    }
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
    }
    let read_only = spec.root().as_ref().and_then(Root::readonly);
    let mut root = Root::default();
    root.set_path("rootfs".into());
    root.set_readonly(read_only);
    spec.set_root(Some(root));
    Ok(spec)
}

/// Reads limits that a container is to have from now on.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_resources(json: &[u8]) -> Result<LinuxResources> {
    let resources = parse("resources", json)?;
    check_resources(&resources)?;
    Ok(resources)
}

/// Where something that the host shares is in the guest.
///
/// # Errors
/// [`trefoil_core::ErrorKind::InvalidArgument`] if it has no name.
#[cfg(not(feature = "confidential"))]
pub(crate) fn shared(name: &str) -> Result<PathBuf> {
    Ok(Path::new(share::PLACE).join(names::check("share", name)?))
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    if json.len() > LONGEST {
        return Err(Error::invalid(format!(
            "the {what} has {} bytes, more than the {LONGEST} that one may have",
            json.len()
        )));
    }
    serde_json::from_slice(json)
        .map_err(|why| Error::invalid(format!("the {what} can't be read: {why}")))
}

fn refuse_if(is_there: bool, field: &str, why: &str) -> Result<()> {
    match is_there {
        true => Err(refused(field, why)),
        false => Ok(()),
    }
}

fn check_top(spec: &Spec) -> Result<()> {
    if let Some(hooks) = spec.hooks() {
        let found = lists(hooks).into_iter().find(|(_, list)| !list.is_empty());
        if let Some((name, _)) = found {
            let why = "no program of the host's runs in a guest";
            return Err(refused(format_args!("hooks.{name}"), why));
        }
    }
    let linux = spec.linux().as_ref();
    let named = spec.hostname().is_some() || spec.domainname().is_some();
    let owns_name = linux.is_some_and(|linux| has(linux, LinuxNamespaceType::Uts));
    let why = "the pod has one, and the container no UTS namespace of its own";
    refuse_if(named && !owns_name, "hostname", why)
}

fn lists(hooks: &Hooks) -> [(&'static str, &[Hook]); 6] {
    [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ]
    .map(|(name, list)| (name, list.as_deref().unwrap_or_default()))
}

fn has(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    let namespaces = linux.namespaces().iter().flatten();
    namespaces.into_iter().any(|one| one.typ() == kind)
}

fn check_linux(linux: &Linux) -> Result<()> {
    for namespace in linux.namespaces().iter().flatten() {
        if let Some(path) = namespace.path() {
            return Err(refused(
                "linux.namespaces",
                format_args!(
                    "{} is to be that at {}, which is a place on the host",
                    namespace.typ(),
                    path.display()
                ),
            ));
        }
    }
    let without = !has(linux, LinuxNamespaceType::Mount);
    refuse_if(without, "linux.namespaces", "there is no mount namespace")?;
    for device in linux.devices().iter().flatten() {
        devices::check(device)?;
    }
    for (name, value) in linux.sysctl().iter().flatten() {
        sysctls::check(name, value)?;
    }
    let listens = linux
        .seccomp()
        .as_ref()
        .is_some_and(|seccomp| seccomp.listener_path().is_some());
    let why = "it names a socket on the host";
    refuse_if(listens, "linux.seccomp.listenerPath", why)?;
    let why = "a guest has no resource control groups";
    refuse_if(linux.intel_rdt().is_some(), "linux.intelRdt", why)?;
    let moved = linux.net_devices().iter().flatten().next().is_some();
    let why = "the pod's interfaces are its own already";
    refuse_if(moved, "linux.netDevices", why)?;
    linux.resources().as_ref().map_or(Ok(()), check_resources)
}

fn check_resources(resources: &LinuxResources) -> Result<()> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
    for file in resources.unified().iter().flat_map(|files| files.keys()) {
        let controller = file.split('.').next().unwrap_or_default();
        // Those of `cgroup` itself move processes and hand out controllers.
        if controller.is_empty() || controller == "cgroup" || !file.bytes().all(plain) {
            let why = format_args!("{file:?} is no limit");
            return Err(refused("linux.resources.unified", why));
        }
    }
    Ok(())
}

/// Gives a mount its place in the guest.
fn place(mount: &mut Mount, has_ipc: bool, volume: &mut Place<'_>) -> Result<()> {
    let destination = mount.destination().display().to_string();
    let field = format!("mount at {destination}");
    let kind = mount.typ().as_deref().unwrap_or_default();
    let binds = |option: &String| option == "bind" || option == "rbind";
    if kind == "bind" || mount.options().iter().flatten().any(binds) {
        let source = mount.source().as_ref().and_then(|source| source.to_str());
        let place = volume(source.unwrap_or_default());
        mount.set_source(Some(place.map_err(|why| refused(&field, why))?));
        return Ok(());
    }
    if !FILE_SYSTEMS.contains(&kind) {
        return Err(refused(field, format_args!("its type is {kind:?}")));
    }
    if kind == "tmpfs" && mount.destination() == Path::new(SHARED_MEMORY) && !has_ipc {
        mount.set_typ(Some("bind".into()));
        mount.set_source(Some(SHARED_MEMORY.into()));
        let options = ["rbind", "nosuid", "noexec", "nodev"].map(str::to_owned);
        mount.set_options(Some(options.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use trefoil_core::ErrorKind;

    use super::*;
    use crate::volumes;

    /// As containerd's CRI makes it, after the host's part has taken out what belongs to the host.
    fn sound() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh"],
                "cwd": "/",
                "apparmorProfile": "cri-containerd.apparmor.d",
            },
            "root": {"path": "/run/containerd/x/rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=65536k"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
                {"destination": "/etc/hosts", "type": "bind", "source": "share:hosts", "options": ["rbind", "ro"]},
            ],
            "linux": {
                "cgroupsPath": "/kubepods/besteffort/pod1/c1",
                "mountLabel": "system_u:object_r:container_file_t:s0",
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
                "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}],
                "sysctl": {"net.ipv4.ip_forward": "1"},
                "resources": {"memory": {"limit": 1 << 24}, "unified": {"memory.high": "max"}},
            },
        })
    }

    fn placed(source: &str) -> Result<PathBuf> {
        Ok(volumes::Name::of_source(source)?.place())
    }

    fn try_read(value: &Value) -> Result<Spec> {
        read("c1", value.to_string().as_bytes(), &mut placed)
    }

    #[test]
    fn a_sound_one_gets_its_places_in_the_guest() {
        let spec = try_read(&sound()).expect("sound");
        let root = spec.root().as_ref().expect("root");
        assert_eq!(
            (root.path().as_path(), root.readonly()),
            (Path::new("rootfs"), Some(true))
        );
        let linux = spec.linux().as_ref().expect("linux");
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/pod/c1")));
        assert!(linux.mount_label().is_none());
        let process = spec.process().as_ref().expect("process");
        assert!(process.apparmor_profile().is_none());
        let mounts = spec.mounts().as_ref().expect("mounts");
        let source = |at: &str| {
            let mount = mounts
                .iter()
                .find(|mount| mount.destination() == Path::new(at));
            mount
                .and_then(|mount| mount.source().clone())
                .expect("source")
        };
        assert_eq!(
            source("/etc/hosts"),
            Path::new("/run/trefoil/volumes/hosts")
        );
        assert_eq!(source("/dev/shm"), Path::new("/dev/shm"));
        assert_eq!(source("/proc"), Path::new("proc"));
    }

    #[test]
    fn a_container_with_its_own_ipc_has_its_own_shared_memory() {
        let mut own = sound();
        own["linux"]["namespaces"][0]["type"] = "ipc".into();
        let spec = try_read(&own).expect("sound");
        let mount = &spec.mounts().as_ref().expect("mounts")[2];
        assert_eq!(mount.typ().as_deref(), Some("tmpfs"));
    }

    /// What is put where, and what the refusal names.
    #[test]
    fn whatever_is_not_to_be_is_named() {
        let mount = |kind: &str, source: &str, option: &str| json!([{"destination": "/x", "type": kind, "source": source, "options": [option]}]);
        let cases = [
            (
                "/hooks",
                json!({"prestart": [{"path": "/bin/true"}]}),
                "hooks.prestart",
            ),
            (
                "/hooks",
                json!({"poststop": [{"path": "/bin/true"}]}),
                "hooks.poststop",
            ),
            ("/hostname", json!("other"), "hostname"),
            ("/domainname", json!("other"), "hostname"),
            ("/linux", Value::Null, "linux"),
            (
                "/linux/namespaces",
                json!([{"type": "pid"}]),
                "no mount namespace",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}]),
                "/proc/7/ns/net",
            ),
            (
                "/linux/devices",
                json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]),
                "no device /dev/null",
            ),
            (
                "/linux/devices",
                json!([{"path": "/dev/null", "type": "b", "major": 1, "minor": 3}]),
                "no device /dev/null",
            ),
            (
                "/linux/devices",
                json!([{"path": "/dev/../dev/null", "type": "c", "major": 1, "minor": 3}]),
                "no device /dev/../dev/null",
            ),
            (
                "/linux/devices",
                json!([{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}]),
                "no device /dev/nvidia0",
            ),
            (
                "/linux/sysctl",
                json!({"kernel.core_pattern": "|/x"}),
                "kernel.core_pattern",
            ),
            (
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}),
                "linux.seccomp.listenerPath",
            ),
            ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
            ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
            (
                "/linux/resources/unified",
                json!({"../cgroup.procs": "1"}),
                "linux.resources.unified",
            ),
            (
                "/linux/resources/unified",
                json!({"cgroup.procs": "1"}),
                "linux.resources.unified",
            ),
            ("/mounts", mount("bind", "/etc", "ro"), "mount at /x"),
            ("/mounts", mount("none", "/etc", "rbind"), "mount at /x"),
            ("/mounts", mount("bind", "share:", "ro"), "mount at /x"),
            ("/mounts", mount("bind", "share:..", "ro"), "mount at /x"),
            ("/mounts", mount("bind", "share:a/b/c", "ro"), "mount at /x"),
            ("/mounts", mount("ext4", "/dev/vda", "ro"), "mount at /x"),
            (
                "/mounts",
                mount("overlay", "o", "lowerdir=/"),
                "mount at /x",
            ),
            ("/mounts", mount("", "x", "ro"), "mount at /x"),
            ("/process", json!("sh"), "can't be read"),
        ];
        for (place, value, named) in cases {
            let mut bad = sound();
            let (parent, name) = place.rsplit_once('/').expect("a pointer");
            bad.pointer_mut(parent).expect("a place")[name] = value;
            let why = try_read(&bad).expect_err(place);
            assert_eq!(why.kind(), ErrorKind::InvalidArgument, "{place}");
            assert!(why.to_string().contains(named), "{place}: {why}");
        }
    }

    #[test]
    fn none_is_too_long() {
        let why = read("c1", &vec![b' '; LONGEST + 1], &mut placed).expect_err("too long");
        assert!(why.to_string().contains("4194305 bytes"), "{why}");
        assert!(read_resources(&vec![b' '; LONGEST + 1]).is_err());
    }

    #[test]
    fn limits_are_checked_alone_too() {
        assert!(read_resources(br#"{"memory": {"limit": 1000000}}"#).is_ok());
        let why = read_resources(br#"{"unified": {"a/b": "1"}}"#).expect_err("a path");
        assert!(why.to_string().contains("linux.resources.unified"), "{why}");
        assert!(read_resources(b"7").is_err());
    }

    /// Parts of configurations, sound ones and others.
    fn parts() -> impl Strategy<Value = (String, Value)> {
        let place = prop::sample::select(vec![
            "/mounts/0/type",
            "/mounts/0/source",
            "/mounts/0/options",
            "/mounts/4/source",
            "/mounts/4/type",
            "/mounts/4/options",
            "/linux/namespaces/0",
            "/linux/namespaces/1/path",
            "/linux/devices/0/path",
            "/linux/devices/0/minor",
            "/linux/resources/unified",
            "/linux/sysctl",
            "/hooks",
            "/root",
            "/process/args",
        ]);
        let value = prop_oneof![
            "(share:)?[./a-z]{0,8}".prop_map(Value::from),
            prop::sample::select(vec!["bind", "tmpfs", "proc", "overlay", "user"])
                .prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::collection::vec("r?bind|ro", 0..3).prop_map(Value::from),
            Just(Value::Null),
            "[./a-z]{0,8}".prop_map(|key| json!({key: "1"})),
            Just(json!({"type": "user", "path": "/x"})),
            Just(json!({"prestart": [{"path": "/x"}]})),
        ];
        (place.prop_map(str::to_owned), value)
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(json in prop::collection::vec(any::<u8>(), 0..256)) {
            drop(read("c1", &json, &mut placed));
            drop(read_resources(&json));
        }

        /// However a configuration was changed: what is accepted stays within the container.
        #[test]
        fn what_is_accepted_stays_inside(changes in prop::collection::vec(parts(), 1..5)) {
            let mut value = sound();
            for (place, part) in changes {
                let (parent, name) = place.rsplit_once('/').expect("a pointer");
                if let Some(Value::Object(parent)) = value.pointer_mut(parent) {
                    parent.insert(name.to_owned(), part);
                }
            }
            let Ok(spec) = try_read(&value) else { return Ok(()) };
            for mount in spec.mounts().iter().flatten() {
                let source = mount.source().clone().unwrap_or_default();
                let bound = mount.typ().as_deref() == Some("bind")
                    || mount.options().iter().flatten().any(|option| option.ends_with("bind"));
                let ours = source == Path::new("/dev/shm")
                    || (source.starts_with("/run/trefoil/volumes") && source.components().count() == 5);
                prop_assert!(!bound || ours, "{}", source.display());
            }
            let linux = spec.linux().as_ref().expect("linux");
            let named = linux.namespaces().iter().flatten().any(|one| one.path().is_some());
            prop_assert!(!named);
            let hooked = spec.hooks().as_ref().is_some_and(|hooks| lists(hooks).iter().any(|(_, list)| !list.is_empty()));
            prop_assert!(!hooked);
            prop_assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/pod/c1")));
            prop_assert_eq!(spec.root().as_ref().map(|root| root.path().as_path()), Some(Path::new("rootfs")));
        }
    }
}
