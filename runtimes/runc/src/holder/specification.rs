//! The holder's configuration: a container with the pod's namespaces and nothing else.

use std::path::Path;

use serde_json::{Value, json};
use trefoil_core::{IdMappings, SandboxConfig};

use crate::launcher::HOLDER_PROGRAM;

/// Who the holder is on the node: nobody.
const NOBODY: u32 = 65534;

/// The system calls that are left to it: becoming its program, and waiting.
const SYSTEM_CALLS: [&str; 9] = [
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "pause",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigreturn",
    "write",
];

/// What makes the holder of such a pod. `user` leads to the user namespace that owns the pod's network, if
/// it has both.
pub(super) fn of(config: &SandboxConfig, user: Option<&Path>) -> Value {
    // The ids of a user namespace need not reach that far; and there root is nobody on the node.
    let id = if config.user_namespace { 0 } else { NOBODY };
    json!({
        "ociVersion": "1.2.0",
        "hostname": if config.node_namespaces.network { "" } else { &config.hostname },
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "cwd": "/",
            "args": [HOLDER_PROGRAM],
            "user": {"uid": id, "gid": id},
            "capabilities": {},
            "noNewPrivileges": true,
            "oomScoreAdj": config.oom_score_adj,
            "selinuxLabel": config.selinux_label,
        },
        "mounts": [],
        "linux": {
            "namespaces": namespaces(config, user),
            "uidMappings": mappings(config, |all| &all.uids),
            "gidMappings": mappings(config, |all| &all.gids),
            "sysctl": config.sysctls,
            "cgroupsPath": config.cgroups_path,
            "resources": {
                "cpu": {"shares": 2},
                "devices": [{"allow": false, "access": "rwm"}],
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": SYSTEM_CALLS, "action": "SCMP_ACT_ALLOW"}],
            },
        },
    })
}

fn mappings<'a>(
    config: &'a SandboxConfig,
    of: impl Fn(&'a IdMappings) -> &'a Vec<oci_spec::runtime::LinuxIdMapping>,
) -> Value {
    match config.user_namespace {
        true => json!(of(&config.id_mappings)),
        false => json!([]),
    }
}

/// All that the pod does not share with the node. It has no mount or cgroup namespace that others join.
fn namespaces(config: &SandboxConfig, user: Option<&Path>) -> Vec<Value> {
    let node = &config.node_namespaces;
    let mut all = vec![json!({"type": "mount"})];
    if config.user_namespace {
        all.push(json!({"type": "user", "path": user}));
    }
    if !node.network {
        all.push(json!({"type": "network", "path": config.netns}));
        // The name of a pod on the node's network is the node's.
        all.push(json!({"type": "uts"}));
    }
    if !node.ipc {
        all.push(json!({"type": "ipc"}));
    }
    if !node.pid {
        all.push(json!({"type": "pid"}));
    }
    all
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxNamespaceType, Spec};
    use trefoil_core::NodeNamespaces;

    use super::*;

    fn kinds(config: &SandboxConfig) -> Vec<LinuxNamespaceType> {
        let spec: Spec = serde_json::from_value(of(config, None)).expect("a configuration");
        let linux = spec.linux().clone().expect("it has one");
        let all = linux.namespaces().clone().expect("it has some");
        all.iter().map(|one| one.typ()).collect()
    }

    #[test]
    fn the_holder_has_what_the_pod_does_not_share_with_the_node() {
        use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
        let mut config = SandboxConfig::default();
        assert_eq!(kinds(&config), [Mount, Network, Uts, Ipc, Pid]);
        config.user_namespace = true;
        assert_eq!(kinds(&config), [Mount, User, Network, Uts, Ipc, Pid]);
        config.node_namespaces = NodeNamespaces {
            network: true,
            pid: true,
            ipc: true,
        };
        config.hostname = "web".into();
        assert_eq!(kinds(&config), [Mount, User]);
        assert_eq!(of(&config, None)["hostname"], "");
    }

    #[test]
    fn the_holder_is_nobody_and_may_do_nothing() {
        let config = SandboxConfig {
            hostname: "web".into(),
            oom_score_adj: Some(-998),
            ..SandboxConfig::default()
        };
        let spec = of(&config, None);
        let process = &spec["process"];
        assert_eq!(process["user"], json!({"uid": 65534, "gid": 65534}));
        assert_eq!(process["oomScoreAdj"], -998);
        assert_eq!(spec["hostname"], "web");
        let spec: Spec = serde_json::from_value(spec).expect("a configuration");
        let process = spec.process().as_ref().expect("a process");
        let capabilities = process.capabilities().clone().expect("said");
        assert!(capabilities.effective().iter().flatten().next().is_none());
        crate::setup::plan::Plan::new(process, &spec).expect("it can be had");
    }
}
