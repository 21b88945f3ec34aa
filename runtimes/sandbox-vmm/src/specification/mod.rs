//! A container's configuration, as the guest is to have it.
//!
//! It was written for a process on the host. What means the same in a guest is passed on; what names
//! something of the host is translated; what the machine itself stands for (the pod's namespaces) is
//! left out; and what can't be had in a guest is refused by name, with what to use instead. The guest
//! gets what is listed here and nothing else: a field that this code does not know stays behind.
//!
//! `docs/microvm.md` has the table.

mod devices;
mod level;
mod linux;
mod mounts;
mod pod;

use std::path::PathBuf;

use oci_spec::runtime::{Hooks, Process, Root, Spec};
use trefoil_core::{Error, Result};
use trefoil_os::selinux;

pub(crate) use linux::resources;
pub(crate) use pod::check_pod;

/// What containerd calls its own AppArmor profile, which it asks for wherever the host has AppArmor.
const DEFAULT_PROFILE: &str = "cri-containerd.apparmor.d";

/// The pod that a container is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod<'a> {
    /// Its name.
    pub id: &'a str,
    /// What the pod's own container says it is: containers name its namespaces by it.
    pub pid: u32,
    /// Whether the pod is this one container, so that its system settings have been made already.
    pub lone: bool,
    /// Whether a container of the pod has a pid namespace of its own, as they all have where the pod's
    /// processes don't see each other.
    pub apart: bool,
    /// Whether its guest compares what it is sent with what the pod's author has written down.
    pub compares: bool,
}

/// A tree or a file of the host's that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Volume {
    /// Where it is.
    pub path: PathBuf,
    /// With what is mounted below it.
    pub submounts: bool,
    /// The guest may not change it.
    pub read_only: bool,
}

/// Notes that a volume is to be shared with the guest, and answers what the source of its mount is there.
pub(crate) type Share<'a> = dyn FnMut(Volume) -> String + Send + 'a;

/// What the guest is told of the container `id`.
///
/// # Errors
/// What can't be had in a guest.
pub(crate) fn translate(
    id: &str,
    spec: &Spec,
    pod: Pod<'_>,
    share: &mut Share<'_>,
) -> Result<Spec> {
    if spec.hooks().as_ref().is_some_and(has_any) {
        return Err(refuse(
            "hooks, which are programs of the host's",
            "leave them out, or use a handler of namespace pods",
        ));
    }
    let mut guest = Spec::default();
    guest
        .set_version(spec.version().clone())
        .set_root(Some(root(spec)?))
        .set_process(spec.process().as_ref().map(process).transpose()?)
        .set_mounts(Some(mounts::translate(spec, pod, share)?))
        .set_linux(Some(linux::translate(id, spec, pod)?))
        .set_hostname(None)
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(None);
    if pod.compares {
        level::configuration(&mut guest);
    }
    Ok(guest)
}

/// A process to be run in a container, as the guest is to have it.
///
/// # Errors
/// What can't be had in a guest.
pub(crate) fn process(process: &Process) -> Result<Process> {
    let profile = process.apparmor_profile().as_deref().unwrap_or_default();
    if !matches!(profile, "" | "unconfined" | DEFAULT_PROFILE) {
        return Err(refuse(
            &format!("the AppArmor profile {profile}, as the guest's kernel has no AppArmor"),
            "use a seccomp profile, or leave the default",
        ));
    }
    // What the pod's first container asks for is the machine's; the guest's kernel knows no labels.
    if let Some(label) = label(process).filter(|_| !selinux::is_enabled()) {
        return Err(selinux::refusal(label).into());
    }
    let mut process = process.clone();
    process.set_apparmor_profile(None).set_selinux_label(None);
    // It means the same in any guest.
    level::process(&mut process);
    Ok(process)
}

/// The label of the host's SELinux that a process asks for.
fn label(process: &Process) -> Option<&str> {
    let label = process.selinux_label().as_deref();
    label.filter(|label| !label.is_empty())
}

/// The guest decides where the root is; here is only whether it may be written to.
fn root(spec: &Spec) -> Result<Root> {
    let readonly = spec.root().as_ref().and_then(Root::readonly);
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(readonly.unwrap_or(false)));
    Ok(root)
}

fn has_any(hooks: &Hooks) -> bool {
    [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ]
    .into_iter()
    .flatten()
    .any(|hooks| !hooks.is_empty())
}

/// That a pod can't have `what`, and what to do `instead`.
fn refuse(what: &str, instead: &str) -> Error {
    Error::invalid(format!("a microVM pod can't have {what}: {instead}"))
}

#[cfg(test)]
mod tests;
