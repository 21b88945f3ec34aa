//! What is Linux's own in a container's configuration.

use std::collections::BTreeSet;

use super::Resources;
use super::json::Field;
use crate::{
    Action, Argument, Comparison, Denial, Device, DeviceKind, Namespace, Profile, Syscalls,
};

/// `linux` of the OCI runtime specification, as far as a confidential pod's may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLinux {
    /// Where the container's cgroup is.
    pub cgroups_path: String,
    /// Its own namespaces. None has a path: that would be another's.
    pub namespaces: BTreeSet<Namespace>,
    /// The filter of its system calls.
    pub seccomp: Option<Profile>,
    /// How mounts reach others.
    pub propagation: Option<String>,
    /// Paths that read as if they were empty.
    pub masked_paths: BTreeSet<String>,
    /// Paths that can't be written to.
    pub readonly_paths: BTreeSet<String>,
    /// Nodes beside those that every container has.
    pub devices: Vec<Device>,
    /// Its limits.
    pub resources: Resources,
}

impl HostLinux {
    pub(super) fn read(linux: Field) -> Result<Self, Denial> {
        let mut linux = linux.object()?;
        let read = Self {
            cgroups_path: linux.demand("cgroupsPath")?.text()?,
            namespaces: linux.set("namespaces", namespace)?,
            seccomp: linux.maybe("seccomp", profile)?,
            propagation: linux.maybe("rootfsPropagation", Field::text)?,
            masked_paths: linux.set("maskedPaths", Field::text)?,
            readonly_paths: linux.set("readonlyPaths", Field::text)?,
            devices: linux.list("devices", device)?,
            resources: linux
                .maybe("resources", Resources::read)?
                .unwrap_or_default(),
        };
        linux.end()?;
        Ok(read)
    }
}

fn namespace(namespace: Field) -> Result<Namespace, Denial> {
    let mut namespace = namespace.object()?;
    let known = |name: &str| match name {
        "cgroup" => Some(Namespace::Cgroup),
        "mount" => Some(Namespace::Mount),
        "pid" => Some(Namespace::Pid),
        _ => None,
    };
    let kind = namespace
        .demand("type")?
        .one_of(known, "cgroup, mount or pid: the others are the pod's")?;
    namespace.end()?;
    Ok(kind)
}

fn device(device: Field) -> Result<Device, Denial> {
    let mut device = device.object()?;
    let kind = |name: &str| match name {
        "b" => Some(DeviceKind::Block),
        "c" | "u" => Some(DeviceKind::Character),
        _ => None,
    };
    let read = Device {
        path: device.demand("path")?.text()?,
        kind: device.demand("type")?.one_of(kind, "b, c or u")?,
        major: device.demand("major")?.number()?,
        minor: device.demand("minor")?.number()?,
        mode: device.maybe("fileMode", Field::number)?.unwrap_or(0o666),
        uid: device.maybe("uid", Field::number)?.unwrap_or(0),
        gid: device.maybe("gid", Field::number)?.unwrap_or(0),
    };
    device.end()?;
    Ok(read)
}

fn profile(profile: Field) -> Result<Profile, Denial> {
    let mut profile = profile.object()?;
    let read = Profile {
        default_action: profile.demand("defaultAction")?.one_of(action, ACTIONS)?,
        default_errno_ret: profile.maybe("defaultErrnoRet", Field::number)?,
        architectures: profile.list("architectures", Field::text)?,
        syscalls: profile.list("syscalls", syscalls)?,
    };
    // It says how the filter is made, and libseccomp's own choice is right.
    drop(profile.list("flags", Field::text)?);
    profile.end()?;
    Ok(read)
}

/// As a denial says what an action may be.
const ACTIONS: &str = "an action that nobody has to be asked for";

fn action(name: &str) -> Option<Action> {
    Action::of_name(name)
}

fn syscalls(syscalls: Field) -> Result<Syscalls, Denial> {
    let mut syscalls = syscalls.object()?;
    let read = Syscalls {
        names: syscalls.list("names", Field::text)?,
        action: syscalls.demand("action")?.one_of(action, ACTIONS)?,
        errno_ret: syscalls.maybe("errnoRet", Field::number)?,
        args: syscalls.list("args", argument)?,
    };
    syscalls.end()?;
    Ok(read)
}

fn argument(argument: Field) -> Result<Argument, Denial> {
    let mut argument = argument.object()?;
    let read = Argument {
        index: argument.demand("index")?.number()?,
        value: argument.demand("value")?.number()?,
        value_two: argument.maybe("valueTwo", Field::number)?,
        op: argument
            .demand("op")?
            .one_of(Comparison::of_name, "a comparison of libseccomp's")?,
    };
    argument.end()?;
    Ok(read)
}
