//! What is mounted in a container: the policy's mounts, in the policy's order.

use std::collections::BTreeSet;

use super::state::State;
use crate::{
    Check, Container, Denial, HostMount, Medium, Mount, MountKind, Policy, VolumeKind, ensure,
};

/// Compares the host's mounts, and answers with the policy's: what came, in the policy's order.
pub(super) fn of(
    container: &Container,
    policy: &Policy,
    state: &State,
    host: Vec<HostMount>,
) -> Result<Vec<HostMount>, Denial> {
    let mounts = &container.mounts;
    let mut came: Vec<Option<HostMount>> = mounts.iter().map(|_| None).collect();
    for (at, mount) in host.into_iter().enumerate() {
        let destination = &mount.destination;
        let place = mounts
            .iter()
            .position(|one| one.destination == *destination);
        let field = || format!("mounts[{at}].destination");
        ensure(Check::MountDestination, place.is_some(), || {
            let all: Vec<_> = mounts.iter().map(|one| one.destination.as_str()).collect();
            let came = format!("{destination:?} came");
            (field(), came, super::files::one_of(&all))
        })?;
        // Without a check there may be one that is nowhere.
        let Some(place) = place else { continue };
        ensure(Check::MountTwice, came[place].is_none(), || {
            (field(), format!("{destination:?} came twice"), "it once")
        })?;
        check(policy, &mounts[place], &mount)
            .map_err(|denial| denial.within(&format!("mounts[{at}]")))?;
        came[place] = Some(mount);
    }
    let mut made = Vec::with_capacity(mounts.len());
    for (wanted, came) in mounts.iter().zip(came) {
        ensure(Check::MountMissing, came.is_some(), || {
            let missing = format!("{:?} is missing", wanted.destination);
            ("mounts", missing, "all of the policy's")
        })?;
        check_filled(policy, state, wanted)?;
        made.extend(came.map(|mount| as_made(policy, wanted, mount)));
    }
    Ok(made)
}

fn check(policy: &Policy, wanted: &Mount, host: &HostMount) -> Result<(), Denial> {
    let (kinds, prefix, name) = forms(policy, &wanted.kind);
    ensure(
        Check::MountKind,
        kinds.contains(&host.kind.as_str()),
        || ("type", format!("{:?} came", host.kind), kinds.join(" or ")),
    )?;
    let source = host.source.strip_prefix(prefix);
    ensure(Check::MountSource, source == Some(name), || {
        let wanted = format!("{prefix}{name}");
        (
            "source",
            format!("{:?} came", host.source),
            format!("{wanted:?}"),
        )
    })?;
    let options = |options: &BTreeSet<crate::MountOption>| {
        let texts: Vec<_> = options.iter().map(ToString::to_string).collect();
        match texts.is_empty() {
            true => "none".to_owned(),
            false => texts.join(","),
        }
    };
    ensure(Check::MountOptions, host.options == wanted.options, || {
        let came = format!("{} came", options(&host.options));
        ("options", came, options(&wanted.options))
    })
}

/// The types that the host may call a mount, and the source that it has to name, in two parts.
fn forms<'a>(
    policy: &Policy,
    kind: &'a MountKind,
) -> (&'static [&'static str], &'static str, &'a str) {
    match kind {
        MountKind::Proc => (&["proc"], "", "proc"),
        MountKind::Sysfs => (&["sysfs"], "", "sysfs"),
        MountKind::Devpts => (&["devpts"], "", "devpts"),
        MountKind::Mqueue => (&["mqueue"], "", "mqueue"),
        MountKind::Cgroup => (&["cgroup", "cgroup2"], "", "cgroup"),
        MountKind::Tmpfs => (&["tmpfs"], "", "tmpfs"),
        MountKind::SharedMemory => (&["tmpfs"], "", "shm"),
        MountKind::Volume { name, .. } => (&["bind"], prefix(policy, name), name),
    }
}

/// How the agent's protocol begins the source of a volume's mount.
fn prefix(policy: &Policy, volume: &str) -> &'static str {
    match policy.volume(volume).map(|volume| &volume.kind) {
        Some(VolumeKind::Files { .. }) => "files:",
        Some(VolumeKind::EmptyDir {
            medium: Medium::Memory,
            ..
        }) => "memory:",
        Some(VolumeKind::EmptyFile) => "empty-file:",
        _ => "scratch:",
    }
}

/// Files have to be there before somebody looks for them.
fn check_filled(policy: &Policy, state: &State, mount: &Mount) -> Result<(), Denial> {
    let MountKind::Volume { name, .. } = &mount.kind else {
        return Ok(());
    };
    let volume = policy.volume(name).map(|volume| &volume.kind);
    let of_files = matches!(volume, Some(VolumeKind::Files { .. }));
    ensure(
        Check::VolumeEmpty,
        !of_files || state.filled.contains(name),
        || {
            let came = format!("{:?} came before the files of {name:?}", mount.destination);
            ("mounts", came, "PutFiles before it")
        },
    )
}

/// A mount that has been checked, as the agent makes it.
fn as_made(policy: &Policy, wanted: &Mount, mut mount: HostMount) -> HostMount {
    let (kinds, ..) = forms(policy, &wanted.kind);
    let kind = kinds.first().copied().unwrap_or_default();
    if mount.kind != kind {
        kind.clone_into(&mut mount.kind);
    }
    if let MountKind::Volume {
        sub_path: Some(below),
        ..
    } = &wanted.kind
    {
        mount.source.push('/');
        mount.source.push_str(below);
    }
    mount
}
