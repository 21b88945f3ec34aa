//! What is Linux's own in a container.

use std::collections::BTreeSet;

use super::resources;
use crate::{
    Check, Container, Denial, Device, HostLinux, Namespace, Paths, Profile, Seccomp, ensure,
};

/// Above the cgroups of all containers in the guest.
const CGROUPS: &str = "/pod";

/// Compares the host's, and answers with the policy's: what came, where it is the same.
pub(super) fn of(container: &Container, id: &str, host: HostLinux) -> Result<HostLinux, Denial> {
    let cgroups_path = format!("{CGROUPS}/{id}");
    ensure(
        Check::CgroupsPath,
        host.cgroups_path == cgroups_path,
        || {
            let came = format!("{:?} came", host.cgroups_path);
            ("cgroupsPath", came, format!("{cgroups_path:?}"))
        },
    )?;
    ensure(
        Check::Namespaces,
        host.namespaces == container.namespaces,
        || {
            let came = format!("{} came", kinds(&host.namespaces));
            ("namespaces", came, kinds(&container.namespaces))
        },
    )?;
    check_propagation(&host)?;
    let masked = (&container.masked_paths, &host.masked_paths);
    check_paths(Check::MaskedPath, "maskedPaths", masked.0, masked.1)?;
    let readonly = (&container.readonly_paths, &host.readonly_paths);
    check_paths(Check::ReadonlyPath, "readonlyPaths", readonly.0, readonly.1)?;
    check_devices(&container.devices, &host.devices)?;
    Ok(HostLinux {
        cgroups_path,
        namespaces: host.namespaces,
        seccomp: seccomp(&container.seccomp, host.seccomp)?,
        propagation: None,
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        devices: container.devices.clone(),
        resources: resources::first(container, host.resources)
            .map_err(|denial| denial.within("resources"))?,
    })
}

fn kinds(namespaces: &BTreeSet<Namespace>) -> String {
    let names = namespaces.iter().map(|one| match one {
        Namespace::Cgroup => "cgroup",
        Namespace::Mount => "mount",
        Namespace::Pid => "pid",
    });
    super::files::one_of(&names.collect::<Vec<_>>())
}

/// Mounts of the container reach nobody else, whichever of the other ways is asked for.
fn check_propagation(host: &HostLinux) -> Result<(), Denial> {
    let propagation = host.propagation.as_deref();
    let sound = matches!(
        propagation,
        None | Some("" | "private" | "rprivate" | "slave" | "rslave")
    );
    ensure(Check::Propagation, sound, || {
        let came = format!("{:?} came", propagation.unwrap_or_default());
        ("rootfsPropagation", came, "private or slave")
    })
}

/// The policy's filter, where the host sends one and the policy has one. The host's is mostly the same.
fn seccomp(policy: &Seccomp, host: Option<Profile>) -> Result<Option<Profile>, Denial> {
    let profile = match policy {
        Seccomp::Unconfined => None,
        Seccomp::Profile(profile) => Some(profile.as_ref()),
    };
    ensure(
        Check::Seccomp,
        profile.is_some() == host.is_some(),
        || match host.is_some() {
            true => ("seccomp", "it came", "none: the policy has it unconfined"),
            false => ("seccomp", "it is missing", "a filter"),
        },
    )?;
    match host.as_ref() == profile {
        true => Ok(host),
        false => Ok(profile.cloned()),
    }
}

/// Checks that all of the policy's are there that have to be, and none but its.
fn check_paths(
    check: Check,
    field: &str,
    policy: &Paths,
    host: &BTreeSet<String>,
) -> Result<(), Denial> {
    let missing = policy.required.difference(host).next();
    ensure(check, missing.is_none(), || {
        let path = missing.map_or("", String::as_str);
        (
            field.to_owned(),
            format!("{path:?} is missing"),
            "all that are required",
        )
    })?;
    let known = |path: &&String| policy.required.contains(*path) || policy.optional.contains(*path);
    let extra = host.iter().find(|path| !known(path));
    ensure(check, extra.is_none(), || {
        let path = extra.map_or("", String::as_str);
        (
            field.to_owned(),
            format!("{path:?} came"),
            "those of the policy",
        )
    })
}

fn check_devices(policy: &[Device], host: &[Device]) -> Result<(), Denial> {
    let extra = host.iter().find(|one| !policy.contains(one));
    let missing = policy.iter().find(|one| !host.contains(one));
    let paths: Vec<_> = policy.iter().map(|one| one.path.as_str()).collect();
    ensure(Check::Device, extra.is_none() && missing.is_none(), || {
        let came = match (extra, missing) {
            (Some(device), _) => format!("{} came", shown(device)),
            (None, Some(device)) => format!("{} is missing", shown(device)),
            (None, None) => String::new(),
        };
        ("devices", came, super::files::one_of(&paths))
    })
}

fn shown(device: &Device) -> String {
    format!(
        "{:?} {}:{} mode {:o} of {}:{}",
        device.path, device.major, device.minor, device.mode, device.uid, device.gid
    )
}
