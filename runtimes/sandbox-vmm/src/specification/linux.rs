//! What is Linux's own in a container's configuration.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use trefoil_core::Result;

use super::devices::{self, Devices};
use super::{Pod, refuse};

/// Above the cgroups of all containers in the guest.
const CGROUPS: &str = "/pod";

pub(super) fn translate(id: &str, spec: &Spec, pod: Pod<'_>) -> Result<Linux> {
    let unset = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&unset);
    let Devices { nodes, rules } = devices::of(spec)?;
    if is_any(linux.uid_mappings().as_ref()) || is_any(linux.gid_mappings().as_ref()) {
        return Err(refuse("mapped user ids", "leave hostUsers out"));
    }
    if linux
        .net_devices()
        .as_ref()
        .is_some_and(|devices| !devices.is_empty())
    {
        return Err(refuse(
            "network devices of the host's",
            "have CNI make the pod's interfaces",
        ));
    }
    if linux.intel_rdt().is_some() || linux.memory_policy().is_some() {
        return Err(refuse(
            "a class of the host's caches or memory (RDT, NUMA)",
            "leave it out",
        ));
    }
    if !pod.lone
        && linux
            .sysctl()
            .as_ref()
            .is_some_and(|settings| !settings.is_empty())
    {
        return Err(refuse(
            "kernel settings of a single container",
            "make them the pod's (securityContext.sysctls)",
        ));
    }
    if matches!(
        linux.rootfs_propagation().as_deref(),
        Some("shared" | "rshared")
    ) {
        return Err(refuse("mounts that reach the host", "use None"));
    }
    if let Some(seccomp) = linux.seccomp()
        && seccomp.listener_path().is_some()
    {
        return Err(refuse(
            "a seccomp profile whose decisions a program of the host makes",
            "use one without SCMP_ACT_NOTIFY",
        ));
    }
    let mut limits = linux.resources().as_ref().map(resources).transpose()?;
    if let Some(limits) = &mut limits {
        let allowed = limits.devices().clone().unwrap_or_default();
        limits.set_devices(Some([allowed, rules].concat()));
    }
    let mut guest = Linux::default();
    guest
        .set_namespaces(Some(namespaces(linux, pod)?))
        .set_resources(limits)
        .set_cgroups_path(Some(PathBuf::from(CGROUPS).join(id)))
        .set_seccomp(linux.seccomp().clone())
        .set_rootfs_propagation(linux.rootfs_propagation().clone())
        .set_masked_paths(linux.masked_paths().clone())
        .set_readonly_paths(linux.readonly_paths().clone())
        .set_personality(linux.personality().clone())
        .set_time_offsets(linux.time_offsets().clone())
        .set_devices((!nodes.is_empty()).then_some(nodes))
        // Of the host, or made before the first container.
        .set_sysctl(None)
        .set_mount_label(None);
    Ok(guest)
}

fn is_any<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// The namespaces that the container has for itself. Network, IPC and host name are the guest's: what
/// the pod's containers share is what the whole guest has.
fn namespaces(linux: &Linux, pod: Pod<'_>) -> Result<Vec<LinuxNamespace>> {
    let mut own = Vec::new();
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let path = namespace
            .path()
            .as_deref()
            .filter(|path| *path != Path::new(""));
        match (namespace.typ(), path) {
            (
                LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts,
                _,
            ) => {}
            (LinuxNamespaceType::User, _) => {
                return Err(refuse(
                    "a user namespace (hostUsers: false)",
                    "leave it out, as the guest's users are none of the host's anyway",
                ));
            }
            // The pod's, as of its own container: that is the guest's. Another container's reads the same,
            // as all that CRI knows of its process is the machine's. But that is one which is apart, or what
            // it has is the pod's, too.
            (LinuxNamespaceType::Pid, Some(path)) if path == pod_pids(pod) && !pod.apart => {}
            (LinuxNamespaceType::Pid, Some(_)) => {
                return Err(refuse(
                    "a container among another's processes (kubectl debug --target)",
                    "use shareProcessNamespace",
                ));
            }
            (kind, Some(path)) => {
                return Err(refuse(
                    &format!("the {kind} namespace {}", path.display()),
                    "it is the host's",
                ));
            }
            (_, None) => own.push(namespace.clone()),
        }
    }
    Ok(own)
}

fn pod_pids(pod: Pod<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/pid", pod.pid))
}

/// Limits, as the guest is to have them.
///
/// # Errors
/// What the guest has nothing of.
pub(crate) fn resources(resources: &LinuxResources) -> Result<LinuxResources> {
    let pages = resources.hugepage_limits().as_deref().unwrap_or_default();
    if let Some(limit) = pages.iter().find(|limit| limit.limit() > 0) {
        return Err(refuse(
            &format!("huge pages of {}", limit.page_size()),
            "use memory",
        ));
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return Err(refuse("RDMA devices", "use a handler of namespace pods"));
    }
    if let Some(io) = resources.block_io() {
        let of_devices = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        if io.weight_device().is_some() || of_devices.iter().any(|devices| devices.is_some()) {
            return Err(refuse(
                "limits for single block devices of the host's",
                "leave the blockio class out",
            ));
        }
    }
    let mut guest = resources.clone();
    guest.set_hugepage_limits(None).set_network(None);
    if let Some(cpu) = guest.cpu_mut() {
        // Numbers of the host's processors and memory nodes.
        cpu.set_cpus(None).set_mems(None);
    }
    Ok(guest)
}
