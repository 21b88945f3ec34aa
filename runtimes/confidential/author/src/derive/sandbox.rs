//! The pod as a whole: its host name, its kernel parameters, and what it can't have.

use trefoil_policy::{Pattern, Sandbox, Sysctl};

use crate::manifest::Naming;
use crate::manifest::pod::PodSpec;
use crate::manifest::security::{ContainerSecurity, ProcMount, Profile, ProfileKind};
use crate::yaml::Fault;

use super::{Knobs, Pod, Result};

/// The longest host name of the kubelet's.
const LONGEST_HOSTNAME: usize = 63;

/// What containerd sets unless the pod does.
pub(super) const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// The host name that the kubelet gives a pod.
pub(super) fn hostname(naming: &Naming, spec: &PodSpec) -> Pattern {
    match (&spec.hostname, naming) {
        (Some(name), _) if !name.is_empty() => Pattern::Exact(cut(name)),
        (_, Naming::Exact(name)) => Pattern::Exact(cut(name)),
        (_, Naming::Prefix(beginning)) => Pattern::Prefix(beginning.clone()),
    }
}

/// As much of a name as a host name may have.
fn cut(name: &str) -> String {
    let cut = &name[..name.floor_char_boundary(LONGEST_HOSTNAME)];
    match cut.len() < name.len() {
        true => cut.trim_end_matches(['-', '.']).to_owned(),
        false => name.to_owned(),
    }
}

/// Works out what the guest is set up with.
///
/// # Errors
/// A parameter that is there twice.
pub(super) fn of_pod(pod: &Pod<'_>, knobs: &Knobs) -> Result<Sandbox> {
    let mut sysctls = Vec::new();
    for (number, sysctl) in pod.spec().security_context.sysctls.iter().enumerate() {
        let name = with_dots(&sysctl.name);
        if sysctls.iter().any(|other: &Sysctl| other.name == name) {
            let fault = Fault::new("is there twice")
                .in_field("name")
                .in_item(number);
            return Err(fault.in_field("sysctls").in_field("securityContext"));
        }
        sysctls.push(Sysctl {
            name,
            value: sysctl.value.clone(),
        });
    }
    for (name, value) in SYSCTLS {
        if sysctls.iter().all(|other| other.name != name) {
            sysctls.push(Sysctl {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
    }
    sysctls.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Sandbox {
        hostname: pod.hostname().clone(),
        sysctls,
        not_before: knobs.not_before,
        start_within: knobs.start_within,
    })
}

/// A parameter's name with dots between its parts. Where the first of the two is a slash, dots are in parts.
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// What no confidential pod can have.
///
/// # Errors
/// The first of it.
pub(super) fn check_pod(spec: &PodSpec) -> Result<()> {
    let own_kernel = "the pod has a kernel of its own: leave it out";
    let fqdn =
        "the cluster's domain, which the host name would have, is not known here: leave it out";
    let has_domain = spec.subdomain.as_ref().is_some_and(|name| !name.is_empty());
    let has_fqdn = spec.set_hostname_as_fqdn == Some(true) && has_domain;
    for (field, is_set, why) in [
        ("hostNetwork", spec.host_network == Some(true), own_kernel),
        ("hostPID", spec.host_pid == Some(true), own_kernel),
        ("hostIPC", spec.host_ipc == Some(true), own_kernel),
        ("hostUsers", spec.host_users == Some(false), own_kernel),
        ("setHostnameAsFQDN", has_fqdn, fqdn),
        ("containers", spec.containers.is_empty(), "must have one"),
    ] {
        if is_set {
            return Err(Fault::new(why).in_field(field));
        }
    }
    let security = &spec.security_context;
    check_labels(
        security.se_linux_options.is_some(),
        security.app_armor_profile.as_ref(),
    )?;
    check_names(spec)
}

/// Containers are told apart by their names.
fn check_names(spec: &PodSpec) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (list, number, container) in spec.all_containers() {
        if !seen.insert(container.name.as_str()) {
            let fault = Fault::new("is there twice").in_field("name");
            return Err(fault.in_item(number).in_field(list));
        }
    }
    Ok(())
}

/// What no container of a confidential pod can have.
///
/// # Errors
/// The first of it.
pub(super) fn check_container(security: &ContainerSecurity) -> Result<()> {
    let privileged = "a privileged container could change the agent that holds the host to the policy: \
                      name the capabilities that it needs";
    let unmasked = "it takes a user namespace, which a guest's containers don't have: leave it out";
    for (field, is_set, why) in [
        ("privileged", security.privileged == Some(true), privileged),
        (
            "procMount",
            security.proc_mount == Some(ProcMount::Unmasked),
            unmasked,
        ),
    ] {
        if is_set {
            return Err(Fault::new(why).in_field(field).in_field("securityContext"));
        }
    }
    check_labels(
        security.se_linux_options.is_some(),
        security.app_armor_profile.as_ref(),
    )
}

/// The guest's kernel has neither SELinux nor AppArmor. The runtime's own profile is left out there.
fn check_labels(selinux: bool, apparmor: Option<&Profile>) -> Result<()> {
    let localhost = apparmor.is_some_and(|profile| profile.kind == ProfileKind::Localhost);
    for (field, is_set, what) in [
        ("seLinuxOptions", selinux, "SELinux"),
        ("appArmorProfile", localhost, "AppArmor"),
    ] {
        if is_set {
            let why = format!("the guest's kernel has no {what}: leave it out");
            return Err(Fault::new(why).in_field(field).in_field("securityContext"));
        }
    }
    Ok(())
}
