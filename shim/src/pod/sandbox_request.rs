//! What is known of a pod from containerd's Sandbox API: CRI's description of it, and the network that CNI
//! has prepared.
//!
//! What containerd itself adds to the container that holds a pod elsewhere (`podsandbox` in its
//! `internal/cri/server`) is added here.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use trefoil_core::{
    Context, Error, IdMappings, Limits, NodeNamespaces, Result, SandboxConfig, SandboxKind,
};
use trefoil_os::selinux;

use super::sandbox_config;
use crate::cri::{Mapping, Mode, PodSandboxConfig, SeLinux, Users};

/// The `oom_score_adj` of what holds a pod: all else is killed before.
const OOM_SCORE_ADJ: i16 = -998;

/// The bit of the capability that a lower `oom_score_adj` than one's own takes.
const CAP_SYS_RESOURCE: u32 = 24;

/// How Sandbox.CreateSandbox describes a pod.
#[derive(Clone, Debug)]
pub struct SandboxRequest {
    /// The pod's id.
    pub id: String,
    /// The containerd namespace it is in.
    pub namespace: String,
    /// The directory that containerd gave it.
    pub bundle: PathBuf,
    /// The network namespace that CNI has prepared.
    pub netns: Option<PathBuf>,
    /// CRI's description.
    pub pod: PodSandboxConfig,
}

impl SandboxRequest {
    /// The pod in plain facts.
    ///
    /// # Errors
    /// What can't be had.
    pub fn config(&self) -> Result<SandboxConfig> {
        let pod = &self.pod;
        let resources = &pod.resources;
        let node = NodeNamespaces {
            network: pod.namespaces.network == Mode::Node,
            pid: pod.namespaces.pid == Mode::Node,
            ipc: pod.namespaces.ipc == Mode::Node,
        };
        let users = pod.namespaces.users.as_ref().map(mappings).transpose()?;
        let id_mappings = users.flatten();
        Ok(SandboxConfig {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            bundle: self.bundle.clone(),
            kind: SandboxKind::Sandbox,
            hostname: pod.hostname.clone(),
            sysctls: sysctls(pod, node.network, id_mappings.is_some()),
            node_namespaces: node,
            user_namespace: id_mappings.is_some(),
            id_mappings: id_mappings.unwrap_or_default(),
            netns: self.netns.clone(),
            cgroups_path: Some(cgroups_path(&pod.cgroup_parent, &self.namespace, &self.id)),
            owns_parent_cgroup: !pod.cgroup_parent.is_empty(),
            limits: Limits::new(resources.cpu_quota, resources.cpu_period, resources.memory),
            oom_score_adj: Some(oom_score_adj()?),
            selinux_label: label(pod),
            annotations: sandbox_config::own(pod.annotations.iter()),
        })
    }
}

/// A user namespace's mappings; none if it is the node's.
fn mappings(users: &Users) -> Result<Option<IdMappings>> {
    match users.mode {
        Mode::Node => Ok(None),
        Mode::Pod => Ok(Some(IdMappings {
            uids: vec![mapping("users", &users.uids)?],
            gids: vec![mapping("groups", &users.gids)?],
        })),
        Mode::Container | Mode::Other => Err(Error::invalid(
            "the pod's user namespace must be the pod's or the node's",
        )),
    }
}

/// The one mapping that CRI has, of the users or the groups; it begins with root.
fn mapping(what: &str, all: &[Mapping]) -> Result<LinuxIdMapping> {
    let refuse = |why: String| Error::invalid(format!("the pod's user namespace {why}"));
    let [
        Mapping {
            host,
            container: 0,
            length,
        },
    ] = *all
    else {
        let from = all.iter().map(|one| one.container.to_string());
        let from: Vec<_> = from.collect();
        return Err(refuse(format!(
            "must map its {what} in one piece from 0, not from [{}]",
            from.join(", ")
        )));
    };
    let last = length
        .checked_sub(1)
        .and_then(|more| host.checked_add(more));
    last.and_then(|_| {
        let line = LinuxIdMappingBuilder::default();
        line.host_id(host)
            .container_id(0_u32)
            .size(length)
            .build()
            .ok()
    })
    .ok_or_else(|| {
        refuse(format!(
            "maps {length} {what} to {host}: there are no such ids"
        ))
    })
}

/// The pod's own, and those that containerd sets by default in a network that is the pod's: every program may
/// listen at low ports and send pings.
fn sysctls(pod: &PodSandboxConfig, node_network: bool, users: bool) -> HashMap<String, String> {
    let own = pod.sysctls.iter();
    let mut all: HashMap<_, _> = own
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut default = |name: &str, value: &str| {
        all.entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    };
    if !node_network {
        default("net.ipv4.ip_unprivileged_port_start", "0");
        if !users {
            default("net.ipv4.ping_group_range", "0 2147483647");
        }
    }
    all
}

/// The cgroup beside those of the pod's containers, as containerd composes theirs: below the pod's, or as a
/// unit in its slice.
fn cgroups_path(parent: &str, namespace: &str, id: &str) -> PathBuf {
    let slice = Path::new(parent)
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.ends_with(".slice"));
    match (parent, slice) {
        ("", _) => Path::new("/").join(namespace).join(id),
        (_, Some(slice)) => PathBuf::from(format!("{slice}:cri-containerd:{id}")),
        (parent, None) => clean(&Path::new(parent).join(id)),
    }
}

/// A path without `.` and without what `..` takes back, as Go's `filepath.Clean` has it.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    clean
}

/// The score of what holds the pod; our own where that is higher and we may not go below.
fn oom_score_adj() -> Result<i16> {
    let read =
        |path: &'static str| std::fs::read_to_string(path).context(|| format!("read {path}"));
    let status = read("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if effective.is_some_and(|mask| mask & (1 << CAP_SYS_RESOURCE) != 0) {
        return Ok(OOM_SCORE_ADJ);
    }
    let own = read("/proc/self/oom_score_adj")?;
    let own = own
        .trim()
        .parse()
        .context(|| "read the own oom_score_adj")?;
    Ok(OOM_SCORE_ADJ.max(own))
}

/// The label that a pod asks for, with SELinux's defaults for what it leaves out. Privileged pods have none.
fn label(pod: &PodSandboxConfig) -> Option<String> {
    let asked = pod
        .selinux
        .as_ref()
        .filter(|label| !label.kind.is_empty())?;
    (!pod.privileged && selinux::is_enabled()).then(|| text(asked))
}

fn text(label: &SeLinux) -> String {
    let or = |part: &str, default: &str| match part {
        "" => default.to_owned(),
        part => part.to_owned(),
    };
    let user = or(&label.user, "system_u");
    let role = or(&label.role, "system_r");
    format!("{user}:{role}:{}:{}", label.kind, or(&label.level, "s0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cri::{Namespaces, Resources, Texts};

    fn request(pod: PodSandboxConfig) -> SandboxRequest {
        SandboxRequest {
            id: "a".into(),
            namespace: "k8s.io".into(),
            bundle: "/b/a".into(),
            netns: Some("/run/netns/x".into()),
            pod,
        }
    }

    #[test]
    fn a_pods_facts_are_what_cri_says() {
        let pod = PodSandboxConfig {
            hostname: "web".into(),
            cgroup_parent: "/kubepods/pod1".into(),
            sysctls: Texts::from([("net.ipv4.ping_group_range".into(), "1 0".into())]),
            resources: Resources {
                cpu_period: 100_000,
                cpu_quota: 150_000,
                memory: 64 << 20,
            },
            ..PodSandboxConfig::default()
        };
        let mut config = request(pod).config().expect("right");
        let score = config.oom_score_adj.take().expect("a score");
        assert!(score >= OOM_SCORE_ADJ);
        let expected = SandboxConfig {
            id: "a".into(),
            namespace: "k8s.io".into(),
            bundle: "/b/a".into(),
            kind: SandboxKind::Sandbox,
            hostname: "web".into(),
            netns: Some("/run/netns/x".into()),
            sysctls: HashMap::from([
                ("net.ipv4.ping_group_range".into(), "1 0".into()),
                ("net.ipv4.ip_unprivileged_port_start".into(), "0".into()),
            ]),
            cgroups_path: Some("/kubepods/pod1/a".into()),
            owns_parent_cgroup: true,
            limits: Limits {
                millicpus: Some(1500),
                memory: Some(64 << 20),
            },
            ..SandboxConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_nodes_network_keeps_its_parameters() {
        let mut pod = PodSandboxConfig::default();
        pod.namespaces.network = Mode::Node;
        pod.namespaces.pid = Mode::Container;
        let config = request(pod).config().expect("right");
        assert!(config.sysctls.is_empty() && config.node_namespaces.network);
        assert!(!config.node_namespaces.pid && !config.user_namespace);
    }

    #[test]
    fn cgroups_are_beside_those_of_the_containers() {
        for (parent, expected) in [
            ("", "/k8s.io/a"),
            ("/kubepods/pod1", "/kubepods/pod1/a"),
            ("/kubepods//./x/../pod1/", "/kubepods/pod1/a"),
            ("/../..", "/a"),
            (
                "/kubepods.slice/kubepods-pod1.slice",
                "kubepods-pod1.slice:cri-containerd:a",
            ),
        ] {
            assert_eq!(cgroups_path(parent, "k8s.io", "a"), Path::new(expected));
        }
    }

    fn with_users(mode: Mode, uids: &[(u32, u32, u32)]) -> Result<SandboxConfig> {
        let ids = uids.iter().map(|(host, container, length)| Mapping {
            host: *host,
            container: *container,
            length: *length,
        });
        let users = Users {
            mode,
            uids: ids.clone().collect(),
            gids: ids.collect(),
        };
        let namespaces = Namespaces {
            users: Some(users),
            ..Namespaces::default()
        };
        request(PodSandboxConfig {
            namespaces,
            ..PodSandboxConfig::default()
        })
        .config()
    }

    #[test]
    fn a_user_namespace_has_the_mappings_that_cri_says() {
        let config = with_users(Mode::Pod, &[(100_000, 0, 65_536)]).expect("right");
        assert!(config.user_namespace);
        let [uid] = config.id_mappings.uids.as_slice() else {
            panic!("one mapping");
        };
        assert_eq!(
            (uid.host_id(), uid.container_id(), uid.size()),
            (100_000, 0, 65_536)
        );
        assert!(!config.sysctls.contains_key("net.ipv4.ping_group_range"));
        assert!(!with_users(Mode::Node, &[]).expect("right").user_namespace);
    }

    #[test]
    fn mappings_that_cannot_be_are_refused() {
        for (mode, ids, phrase) in [
            (Mode::Pod, vec![], "in one piece from 0, not from []"),
            (Mode::Pod, vec![(9, 1, 5)], "not from [1]"),
            (Mode::Pod, vec![(9, 0, 5), (20, 5, 5)], "not from [0, 5]"),
            (Mode::Pod, vec![(1, 0, 0)], "no such ids"),
            (Mode::Pod, vec![(u32::MAX, 0, 2)], "no such ids"),
            (Mode::Container, vec![(1, 1, 1)], "must be the pod's"),
        ] {
            let why = with_users(mode, &ids).expect_err(phrase).to_string();
            assert!(why.contains(phrase), "{why}");
        }
    }

    #[test]
    fn a_label_has_selinuxs_defaults() {
        let mut label = SeLinux {
            kind: "container_t".into(),
            ..SeLinux::default()
        };
        assert_eq!(text(&label), "system_u:system_r:container_t:s0");
        label.level = "s0:c1,c2".into();
        assert_eq!(text(&label), "system_u:system_r:container_t:s0:c1,c2");
    }

    proptest! {
        #[test]
        fn no_parent_leads_out_of_the_hierarchy(parent in "[a-c./]{0,12}") {
            let path = cgroups_path(&format!("/{parent}"), "k8s.io", "id");
            prop_assert!(path.components().all(|part| part != Component::ParentDir));
        }
    }
}
