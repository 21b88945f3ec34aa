//! What is known of a pod, from the configuration of its first container: under CRI its own, which holds
//! its namespaces; for ctr the only one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use trefoil_core::{
    Error, IdMappings, Limits, NodeNamespaces, Result, SandboxConfig, SandboxKind, annotations,
};
use trefoil_spec::namespaces;

use crate::runtimes;

/// Annotations by which CRI tells a pod's limits: the sums of its containers'. Zero is no limit.
/// Source: containerd, `internal/cri/annotations`.
mod annotation {
    pub(super) const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
    pub(super) const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
    pub(super) const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
}

/// The pod `id`, whose first container is configured so.
///
/// # Errors
/// If an annotation of CRI's is no number.
pub fn of(id: &str, namespace: &str, bundle: &Path, spec: &Spec) -> Result<SandboxConfig> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let of_kind = |kind| namespaces::entry(spec, kind);
    let (kind, limits) = match spec.annotations() {
        Some(annotations) if annotations.contains_key(annotations::CONTAINER_TYPE) => {
            (SandboxKind::Pod, told_by_cri(annotations)?)
        }
        _ => {
            let resources = linux.and_then(|linux| linux.resources().as_ref());
            (SandboxKind::SingleContainer, Limits::of(resources))
        }
    };
    let label = process.and_then(|process| process.selinux_label().clone());
    Ok(SandboxConfig {
        // The container's own configuration has them, and where it is.
        id_mappings: IdMappings::default(),
        owns_parent_cgroup: false,
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        bundle: bundle.to_owned(),
        kind,
        hostname: spec.hostname().clone().unwrap_or_default(),
        node_namespaces: NodeNamespaces {
            network: of_kind(LinuxNamespaceType::Network).is_none(),
            pid: of_kind(LinuxNamespaceType::Pid).is_none(),
            ipc: of_kind(LinuxNamespaceType::Ipc).is_none(),
        },
        user_namespace: of_kind(LinuxNamespaceType::User).is_some(),
        netns: of_kind(LinuxNamespaceType::Network)
            .and_then(|network| network.path().clone())
            .filter(|path| path != Path::new("")),
        sysctls: linux
            .and_then(|linux| linux.sysctl().clone())
            .unwrap_or_default(),
        cgroups_path: trefoil_spec::cgroups_path(spec).map(Path::to_path_buf),
        limits,
        oom_score_adj: process
            .and_then(|process| process.oom_score_adj())
            .and_then(|score| i16::try_from(score).ok()),
        selinux_label: label.filter(|label| !label.is_empty()),
        annotations: own(spec.annotations().iter().flatten()),
    })
}

/// Those of a pod's annotations that are a runtime's own business.
pub fn own<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, String> {
    annotations
        .filter(|(name, _)| runtimes::is_own(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn told_by_cri(annotations: &HashMap<String, String>) -> Result<Limits> {
    let number = |name: &str| match annotations.get(name) {
        None => Ok(0),
        Some(text) => text.parse::<i64>().map_err(|why| {
            Error::invalid(format!("read the pod's annotation {name}={text:?}: {why}"))
        }),
    };
    Ok(Limits::new(
        number(annotation::CPU_QUOTA)?,
        number(annotation::CPU_PERIOD)?,
        number(annotation::MEMORY)?,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<SandboxConfig> {
        let spec = serde_json::from_value(spec).expect("a configuration");
        of("pod", "k8s.io", Path::new("/b"), &spec)
    }

    /// As CRI makes the pod's own.
    fn of_a_pod(namespaces: Value, annotations: &[(&str, &str)]) -> Result<SandboxConfig> {
        let mut all = json!({annotations::CONTAINER_TYPE: "sandbox"});
        for (name, value) in annotations {
            all[*name] = json!(value);
        }
        read(json!({
            "ociVersion": "1.2.0", "hostname": "web", "annotations": all,
            "process": {
                "cwd": "/", "args": ["/pause"], "user": {"uid": 0, "gid": 0},
                "oomScoreAdj": -998, "selinuxLabel": "a:b:c",
            },
            "linux": {
                "namespaces": namespaces,
                "sysctl": {"net.core.somaxconn": "1024"},
                "cgroupsPath": "/kubepods/pod1/a",
            }
        }))
    }

    #[test]
    fn a_pods_facts_are_those_of_its_own_container() {
        let all = json!([
            {"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "/run/netns/x"}
        ]);
        let config = of_a_pod(all, &[]).expect("read");
        let expected = SandboxConfig {
            id: "pod".into(),
            namespace: "k8s.io".into(),
            bundle: "/b".into(),
            kind: SandboxKind::Pod,
            hostname: "web".into(),
            netns: Some("/run/netns/x".into()),
            sysctls: HashMap::from([("net.core.somaxconn".into(), "1024".into())]),
            cgroups_path: Some("/kubepods/pod1/a".into()),
            oom_score_adj: Some(-998),
            selinux_label: Some("a:b:c".into()),
            ..SandboxConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_namespace_that_is_not_named_is_the_nodes() {
        for (namespaces, [network, pid, ipc], user) in [
            (json!([]), [true, true, true], false),
            (json!([{"type": "network"}]), [false, true, true], false),
            (
                json!([{"type": "pid"}, {"type": "ipc"}, {"type": "user"}]),
                [true, false, false],
                true,
            ),
        ] {
            let config = of_a_pod(namespaces, &[]).expect("read");
            let expected = NodeNamespaces { network, pid, ipc };
            assert_eq!(
                (config.node_namespaces, config.user_namespace),
                (expected, user)
            );
            assert_eq!(config.netns, None);
        }
        let nowhere = json!([{"type": "network", "path": ""}]);
        assert_eq!(of_a_pod(nowhere, &[]).expect("read").netns, None);
    }

    #[test]
    fn the_limits_of_a_pod_are_those_that_cri_tells() {
        let config = of_a_pod(
            json!([]),
            &[
                (annotation::CPU_QUOTA, "150000"),
                (annotation::CPU_PERIOD, "100000"),
                (annotation::MEMORY, "67108864"),
            ],
        );
        let expected = Limits {
            millicpus: Some(1500),
            memory: Some(64 << 20),
        };
        assert_eq!(config.expect("read").limits, expected);
        let none = of_a_pod(json!([]), &[(annotation::MEMORY, "0")]).expect("read");
        assert_eq!(none.limits, Limits::default());
        let why = of_a_pod(json!([]), &[(annotation::MEMORY, "64Mi")]).expect_err("no number");
        assert!(why.to_string().contains("sandbox-memory=\"64Mi\""), "{why}");
    }

    #[test]
    fn a_container_without_a_pod_has_its_own_limits() {
        let config = read(json!({"ociVersion": "1.0.2", "linux": {"resources": {
            "memory": {"limit": 134_217_728}, "cpu": {"quota": 250_000, "period": 100_000}
        }}}));
        let config = config.expect("read");
        assert_eq!(config.kind, SandboxKind::SingleContainer);
        let expected = Limits {
            millicpus: Some(2500),
            memory: Some(128 << 20),
        };
        assert_eq!(config.limits, expected);
    }
}
