//! What is mounted in a container: containerd's own mounts, the kubelet's files, and the pod's volumes.

use trefoil_policy::{Mount, MountKind, MountOption};

use crate::image::Image;
use crate::manifest::container::Container;
use crate::manifest::mount::{Propagation, Recursively, VolumeMount};
use crate::manifest::pod::PodSpec;
use crate::yaml::Fault;

use super::fields::shorten;
use super::{Pod, Result, names};

/// The mounts of a container's namespaces, in containerd's order, with their options.
const OF_NAMESPACES: [(&str, MountKind, &str); 7] = [
    ("/proc", MountKind::Proc, "nosuid noexec nodev"),
    (
        "/dev",
        MountKind::Tmpfs,
        "nosuid strictatime mode=755 size=65536k",
    ),
    (
        "/dev/pts",
        MountKind::Devpts,
        "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5",
    ),
    ("/dev/shm", MountKind::SharedMemory, "nosuid noexec nodev"),
    ("/dev/mqueue", MountKind::Mqueue, "nosuid noexec nodev"),
    ("/sys", MountKind::Sysfs, "nosuid noexec nodev ro"),
    (
        "/sys/fs/cgroup",
        MountKind::Cgroup,
        "nosuid noexec nodev relatime ro",
    ),
];

/// Where the kubelet looks for a container's last words, unless it is told otherwise.
const LAST_WORDS: &str = "/dev/termination-log";

/// Works out a container's mounts.
///
/// # Errors
/// A volume that is none, a path that is none, what a guest can't have.
pub(super) fn of_container(
    pod: &Pod<'_>,
    container: &Container,
    image: &Image,
) -> Result<Vec<Mount>> {
    let mut volumes: Vec<Mount> = Vec::new();
    for (number, mount) in container.volume_mounts.iter().enumerate() {
        let fault = |fault: Fault| fault.in_item(number).in_field("volumeMounts");
        let mount = of_volume(pod.spec(), mount).map_err(fault)?;
        if volumes
            .iter()
            .any(|one| one.destination == mount.destination)
        {
            return Err(fault(Fault::new("is there twice").in_field("mountPath")));
        }
        volumes.push(mount);
    }
    if pod.has_token()
        && volumes
            .iter()
            .all(|mount| mount.destination != names::TOKEN_PLACE)
    {
        volumes.push(volume(names::TOKEN_PLACE, names::TOKEN, true));
    }
    add_kubelets(container, &mut volumes)?;
    check_image_volumes(image, &volumes)?;
    let mut all: Vec<_> = OF_NAMESPACES
        .iter()
        .filter(|(place, ..)| volumes.iter().all(|mount| mount.destination != *place))
        .map(|(place, kind, options)| Mount {
            destination: (*place).to_owned(),
            kind: kind.clone(),
            options: options
                .split_whitespace()
                .filter_map(|one| one.parse().ok())
                .collect(),
        })
        .collect();
    // containerd has the shared memory among those that it sorts.
    let shared = all
        .iter()
        .position(|mount| mount.kind == MountKind::SharedMemory);
    volumes.extend(shared.map(|at| all.remove(at)));
    volumes.sort_by_key(|mount| mount.destination.matches('/').count());
    all.extend(volumes);
    Ok(all)
}

fn volume(place: &str, name: &str, read_only: bool) -> Mount {
    Mount {
        destination: place.to_owned(),
        kind: MountKind::Volume {
            name: name.to_owned(),
            sub_path: None,
        },
        options: read_only
            .then_some(MountOption::ReadOnly)
            .into_iter()
            .collect(),
    }
}

/// Files that the kubelet and containerd make for each pod, where no volume is in their place.
fn add_kubelets(container: &Container, mounts: &mut Vec<Mount>) -> Result<()> {
    let read_only = container
        .security_context
        .read_only_root_filesystem
        .unwrap_or_default();
    let last_words = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    let last_words = place(last_words.unwrap_or(LAST_WORDS))
        .map_err(|fault| fault.in_field("terminationMessagePath"))?;
    for (place, name, read_only) in [
        ("/etc/hosts", names::HOSTS, false),
        (last_words.as_str(), names::LAST_WORDS, false),
        ("/etc/hostname", names::HOSTNAME, read_only),
        ("/etc/resolv.conf", names::RESOLVER, read_only),
    ] {
        if mounts.iter().all(|mount| mount.destination != place) {
            mounts.push(volume(place, name, read_only));
        }
    }
    Ok(())
}

/// What an image declares a volume would be a directory of the host's.
fn check_image_volumes(image: &Image, mounts: &[Mount]) -> Result<()> {
    for declared in &image.config.volumes {
        let path = format!("/{}", declared.trim_matches('/'));
        if mounts.iter().all(|mount| mount.destination != path) {
            let why = format!(
                "it declares a VOLUME {:?}, of which containerd makes a directory of the host's: mount an emptyDir there",
                shorten(declared)
            );
            return Err(Fault::new(why).in_field("image"));
        }
    }
    Ok(())
}

fn of_volume(spec: &PodSpec, mount: &VolumeMount) -> Result<Mount> {
    let Some(of) = spec.volumes.iter().find(|volume| volume.name == mount.name) else {
        let why = format!("there is no volume {:?}", shorten(&mount.name));
        return Err(Fault::new(why).in_field("name"));
    };
    let is_recursive = mount
        .recursive_read_only
        .is_some_and(|it| it != Recursively::Disabled);
    let bidirectional = mount.mount_propagation == Some(Propagation::Bidirectional);
    for (field, is_set, why) in [
        (
            "mountPropagation",
            bidirectional,
            "mounts can't reach a confidential pod's host: leave it out",
        ),
        (
            "recursiveReadOnly",
            is_recursive,
            "nothing is mounted below a volume of a confidential pod: leave it out",
        ),
        ("subPath", !mount.sub_path.is_empty(), NO_PART),
        ("subPathExpr", !mount.sub_path_expr.is_empty(), NO_PART),
    ] {
        if is_set {
            return Err(Fault::new(why).in_field(field));
        }
    }
    let destination = place(&mount.mount_path).map_err(|fault| fault.in_field("mountPath"))?;
    // The kubelet mounts what it writes itself read-only, whatever the manifest says.
    let read_only = mount.read_only || of.has_files();
    Ok(volume(&destination, &mount.name, read_only))
}

/// The kubelet mounts a part of a volume from a directory of the host's, which the node's side refuses.
const NO_PART: &str = "a part of a volume can't be mounted in a confidential pod: \
     mount the whole volume, in a directory of its own";

/// A path in a container, in the form that it is resolved in.
fn place(path: &str) -> Result<String> {
    path.strip_prefix('/')
        .and_then(clean)
        .map(|path| format!("/{path}"))
        .ok_or_else(|| {
            Fault::new(format!(
                "{:?} must be an absolute path without ..",
                shorten(path)
            ))
        })
}

/// A relative path without empty parts and dots; none if it leads up or nowhere.
pub(super) fn clean(path: &str) -> Option<String> {
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    let is_sound = !parts.is_empty()
        && !parts.contains(&"..")
        && !path.contains('\0')
        && !path.starts_with('/');
    is_sound.then(|| parts.join("/"))
}
