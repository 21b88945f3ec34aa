//! A container's mounts.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use trefoil_core::Result;

use super::{Pod, Share, Volume, refuse};

/// Filesystems that the guest's kernel makes, so that none of the host is in them.
const OF_THE_KERNEL: [&str; 7] = [
    "proc", "sysfs", "tmpfs", "mqueue", "devpts", "cgroup", "cgroup2",
];

/// How shared memory is mounted. A container without an IPC namespace of its own, as ours are, gets the
/// guest's own there, whatever else is said.
const SHARED_MEMORY: [&str; 3] = ["nosuid", "noexec", "nodev"];

pub(super) fn translate(spec: &Spec, pod: Pod<'_>, share: &mut Share<'_>) -> Result<Vec<Mount>> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().map(|mount| one(mount, pod, share)).collect()
}

fn one(mount: &Mount, pod: Pod<'_>, share: &mut Share<'_>) -> Result<Mount> {
    let place = mount.destination().display();
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |wanted: &[&str]| {
        options
            .iter()
            .any(|option| wanted.contains(&option.as_str()))
    };
    if has(&["shared", "rshared"]) {
        return Err(refuse(
            &format!("mounts that reach the host (mountPropagation: Bidirectional, at {place})"),
            "use None",
        ));
    }
    let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    if mapped || has(&["idmap", "ridmap"]) {
        return Err(refuse(
            &format!("a mount whose owners are mapped (at {place})"),
            "leave hostUsers out",
        ));
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    let mut guest = Mount::default();
    guest
        .set_destination(mount.destination().clone())
        .set_typ(mount.typ().clone())
        .set_source(mount.source().clone())
        .set_options(mount.options().clone());
    if kind == "bind" || has(&["bind", "rbind"]) {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        if is_shared_memory(mount, source, pod) {
            guest
                .set_typ(Some("tmpfs".into()))
                .set_source(Some("shm".into()))
                .set_options(Some(SHARED_MEMORY.map(String::from).to_vec()));
            return Ok(guest);
        }
        let source = share(Volume {
            path: source.to_path_buf(),
            submounts: has(&["rbind"]),
            read_only: has(&["ro", "rro"]),
        });
        guest
            .set_typ(Some("bind".into()))
            .set_source(Some(source.into()));
        return Ok(guest);
    }
    if !OF_THE_KERNEL.contains(&kind) {
        return Err(refuse(
            &format!("a filesystem of type {kind:?} (at {place})"),
            "have the host mount it, and use a hostPath",
        ));
    }
    Ok(guest)
}

/// Whether it is the memory that containerd shares among a pod's containers on the host. The guest has
/// its own.
fn is_shared_memory(mount: &Mount, source: &Path, pod: Pod<'_>) -> bool {
    mount.destination() == Path::new("/dev/shm") && source.ends_with(Path::new(pod.id).join("shm"))
}
