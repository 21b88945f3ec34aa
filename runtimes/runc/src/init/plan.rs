//! Everything a container's making will need, worked out on the host before anything changes.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Hook, LinuxIdMapping, Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::namespaces::Namespaces;
use crate::hooks;
use crate::root;
use crate::setup;
use crate::setup::error::{Doing, Failure};
use crate::setup::hostproc::HostProc;
use crate::setup::seccomp::listener::Listener;
use crate::sysctls::{self, Sysctls};
use trefoil_cgroups::{Cgroup, Hierarchies};

/// A container that is to be made.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    /// Its name.
    pub(crate) id: &'a str,
    /// Its directory.
    pub(crate) bundle: &'a Path,
    /// Its configuration.
    pub(crate) spec: &'a Spec,
    /// Whether its init has a terminal.
    pub(crate) terminal: bool,
    /// Whether its root is changed by moving a mount, not by `pivot_root`.
    pub(crate) no_pivot_root: bool,
}

/// What is decided.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) process: setup::plan::Plan,
    pub(super) namespaces: Namespaces,
    /// The root of a container with a user namespace: see [`Self::root`].
    root: Option<root::Plan>,
    hierarchies: Hierarchies,
    pub(super) root_directory: OwnedFd,
    pub(super) sysctls: Sysctls,
    pub(super) proc: HostProc,
    /// The agent that a seccomp filter asks.
    pub(super) agent: Option<Listener>,
    /// To whom the container's cgroup is given, on the host.
    pub(super) cgroup_owner: Option<(Uid, Gid)>,
}

impl Container<'_> {
    /// The process that the configuration describes.
    pub(super) fn process(&self) -> Result<&Process, Failure> {
        self.spec
            .process()
            .as_ref()
            .ok_or_else(|| Failure::new("the configuration has no process"))
    }

    /// Runs the hooks of a kind, with this status and this number of the container's process.
    pub(crate) fn run_hooks(
        &self,
        kind: &'static str,
        status: &'static str,
        pid: Option<i32>,
    ) -> Result<(), Failure> {
        hooks::run(kind, hooks_of(self.spec, kind), &self.state(status, pid))
    }

    /// Its state, as the runtime specification describes it.
    pub(super) fn state(&self, status: &'static str, pid: Option<i32>) -> hooks::State<'_> {
        hooks::State {
            version: self.spec.version(),
            id: self.id,
            status,
            pid,
            bundle: self.bundle,
            annotations: self.spec.annotations().as_ref(),
        }
    }

    /// Whether there are hooks of a kind.
    pub(crate) fn has_hooks(&self, kind: &str) -> bool {
        hooks_of(self.spec, kind).is_some_and(|hooks| !hooks.is_empty())
    }
}

fn hooks_of<'a>(spec: &'a Spec, kind: &str) -> Option<&'a [Hook]> {
    let hooks = spec.hooks().as_ref()?;
    let list = match kind {
        "prestart" => hooks.prestart(),
        "createRuntime" => hooks.create_runtime(),
        "createContainer" => hooks.create_container(),
        "startContainer" => hooks.start_container(),
        "poststart" => hooks.poststart(),
        _ => hooks.poststop(),
    };
    list.as_deref()
}

impl Plan {
    /// Checks and translates a configuration, and opens what it names on the host. The cgroup is there
    /// already. `rootfs` is the directory that becomes the root.
    pub(crate) fn new(
        container: &Container<'_>,
        cgroup: &Cgroup,
        rootfs: &Path,
    ) -> Result<Self, Failure> {
        let spec = container.spec;
        let process = setup::plan::Plan::new(container.process()?, spec)
            .map_err(|why| Failure::new(why.to_string()))?;
        check(spec)?;
        check_terminal(container)?;
        let agent = Listener::connect(spec)?;
        let proc = HostProc::open()?;
        let namespaces = Namespaces::open(spec, setup::time::offsets(spec)?)?;
        let hierarchies = cgroup
            .hierarchies()
            .map_err(|why| Failure::new(why.to_string()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_directory = openat(CWD, rootfs, flags, Mode::empty())
            .doing(|| format!("open the root filesystem {}", rootfs.display()))?;
        let delegates = namespaces.makes_cgroup() && namespaces.user.is_some();
        let mut plan = Self {
            process,
            sysctls: sysctls::check(spec)?,
            cgroup_owner: delegates.then(|| host_root(spec)).flatten(),
            namespaces,
            root: None,
            hierarchies,
            root_directory,
            proc,
            agent,
        };
        if plan.namespaces.user.is_some() {
            plan.root = Some(plan.plan_root(container)?);
        }
        Ok(plan)
    }

    /// The root, as planned among the mounts that the container is made from. With a user namespace that
    /// was done on the host, whose rights it takes. Without, the calling process is to be in the new mount
    /// namespace by now: it has all mounts of the host's but for those of mount namespaces (snapd's, on
    /// Ubuntu), which the kernel lets nobody attach where they might lead around in a circle.
    pub(super) fn root(&mut self, container: &Container<'_>) -> Result<root::Plan, Failure> {
        match self.root.take() {
            Some(planned) => Ok(planned),
            None => self.plan_root(container),
        }
    }

    fn plan_root(&self, container: &Container<'_>) -> Result<root::Plan, Failure> {
        root::Plan::new(&root::Input {
            spec: container.spec,
            bundle: container.bundle,
            user_namespace: self.namespaces.user(),
            cgroups: &self.hierarchies,
            own_cgroup_namespace: self.namespaces.has_own_cgroup(),
        })
    }
}

/// Refuses what can never be done.
fn check(spec: &Spec) -> Result<(), Failure> {
    setup::names::check(spec)?;
    setup::memory_policy::check(spec)?;
    setup::netdevices::check(spec)?;
    setup::rdt::check(spec)?;
    hooks::check(spec)
}

/// Refuses a terminal that the configuration and who asks for the container disagree about, as runc does.
fn check_terminal(container: &Container<'_>) -> Result<(), Failure> {
    let configured = container.process()?.terminal().unwrap_or(false);
    match (configured, container.terminal) {
        (true, false) => Err(Failure::new(
            "process.terminal is true, but no terminal is asked for",
        )),
        (false, true) => Err(Failure::new(
            "a terminal is asked for, but process.terminal is not true",
        )),
        _ => Ok(()),
    }
}

/// The container's root as the host knows it.
fn host_root(spec: &Spec) -> Option<(Uid, Gid)> {
    let linux = spec.linux().as_ref()?;
    let uid = on_host(0, linux.uid_mappings().as_deref())?;
    let gid = on_host(0, linux.gid_mappings().as_deref())?;
    Some((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// A container's user or group number as the host knows it.
fn on_host(id: u32, mappings: Option<&[LinuxIdMapping]>) -> Option<u32> {
    mappings.unwrap_or_default().iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id())?;
        (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    #[test]
    fn ids_are_translated_by_the_mapping_that_holds_them() {
        let mapping = |container: u32, host: u32, size: u32| {
            LinuxIdMappingBuilder::default()
                .container_id(container)
                .host_id(host)
                .size(size)
                .build()
                .expect("mapping")
        };
        let mappings = [mapping(0, 100_000, 10), mapping(10, 500, 5)];
        assert_eq!(on_host(0, Some(&mappings)), Some(100_000));
        assert_eq!(on_host(12, Some(&mappings)), Some(502));
        assert_eq!(on_host(15, Some(&mappings)), None);
        assert_eq!(on_host(7, None), None);
    }
}
