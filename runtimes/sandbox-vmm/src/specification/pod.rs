//! What a pod as a whole can't have in a machine.

use trefoil_core::{Result, SandboxConfig};

use super::refuse;

/// Makes sure that a pod can be a machine.
///
/// # Errors
/// If it needs the node's own namespaces, or a user namespace.
pub(crate) fn check_pod(config: &SandboxConfig) -> Result<()> {
    let node = &config.node_namespaces;
    for (asked, name) in [
        (node.network, "hostNetwork"),
        (node.pid, "hostPID"),
        (node.ipc, "hostIPC"),
    ] {
        if asked {
            return Err(refuse(
                &format!("{name}, as it has a kernel of its own"),
                "use a handler of namespace pods",
            ));
        }
    }
    if config.user_namespace {
        return Err(refuse(
            "a user namespace (hostUsers: false)",
            "leave it out, as the guest's users are none of the host's anyway",
        ));
    }
    Ok(())
}
