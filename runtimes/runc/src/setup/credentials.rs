//! Becoming the requested user, with the requested groups and capabilities and no others.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setresgid, setresuid, setuid};
use oci_spec::runtime::{Process, Spec};

use super::capabilities::{self, CapabilitySets};
use super::descriptors;
use super::directory;
use super::error::{Doing, Failure};
use super::hostproc::HostProc;

/// Who the process runs as, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    capabilities: Option<CapabilitySets>,
    cwd: PathBuf,
}

impl Credentials {
    /// What `process` asks for; where it says nothing of capabilities, what the container has.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Self {
        let user = process.user();
        let containers = spec
            .process()
            .as_ref()
            .and_then(|init| init.capabilities().as_ref());
        Self {
            uid: Uid::from_raw(user.uid()),
            gid: Gid::from_raw(user.gid()),
            groups: user
                .additional_gids()
                .iter()
                .flatten()
                .copied()
                .map(Gid::from_raw)
                .collect(),
            capabilities: process
                .capabilities()
                .as_ref()
                .or(containers)
                .map(Into::into),
            cwd: process.cwd().clone(),
        }
    }

    /// The user id.
    pub(crate) fn uid(&self) -> Uid {
        self.uid
    }

    /// The working directory.
    pub(crate) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Changes to the working directory, the user, its groups and its capabilities.
    ///
    /// `may_set_groups` as [`may_set_groups`] found it.
    pub(crate) fn assume(&self, may_set_groups: bool) -> Result<(), Failure> {
        let last = capabilities::last_supported();
        let capabilities = self.capabilities.map(|sets| sets.supported_by(last));

        // The container's root may enter directories that the user may not, and the other way
        // round on volumes that squash root. Either is enough.
        let entered = match chdir(&self.cwd) {
            Ok(()) => true,
            Err(Errno::EACCES | Errno::EPERM) => false,
            Err(errno) => return Err(errno).doing(|| directory::entering(&self.cwd)),
        };
        if let Some(sets) = capabilities {
            sets.limit_bounding(last)?;
        }
        capabilities::keep_across_setuid(true)?;
        descriptors::give_stdio_to(self.uid)?;
        if may_set_groups {
            setgroups(&self.groups).doing(|| "set the supplementary groups")?;
        }
        setgid(self.gid).doing(|| format!("set the group id to {}", self.gid))?;
        setuid(self.uid).doing(|| format!("set the user id to {}", self.uid))?;
        if !entered {
            chdir(&self.cwd).doing(|| directory::entering(&self.cwd))?;
        }
        directory::verify_inside(&self.cwd)?;
        capabilities::keep_across_setuid(false)?;
        if let Some(sets) = capabilities {
            sets.apply()?;
        }
        Ok(())
    }
}

/// Whether this user namespace lets its processes change their groups. One that an unprivileged
/// user made does not, and then there is nothing to be done about supplementary groups.
pub(crate) fn may_set_groups(proc: &HostProc) -> bool {
    !proc
        .read("self/setgroups")
        .is_ok_and(|text| text.trim() == "deny")
}

/// In a user namespace that was just joined this process has every capability but nobody's ids.
/// Files and terminals made from here on must belong to the container's root.
pub(crate) fn become_root() -> Result<(), Failure> {
    let ignore_unmapped = |result: Result<(), Errno>| match result {
        // The namespace maps no root, or forbids setgroups: the process's own ids follow later.
        Err(Errno::EINVAL | Errno::EPERM) => Ok(()),
        other => other,
    };
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    ignore_unmapped(setgroups(&[])).doing(|| "leave the host's groups")?;
    ignore_unmapped(setresgid(gid, gid, gid)).doing(|| "become the container's root group")?;
    ignore_unmapped(setresuid(uid, uid, uid)).doing(|| "become the container's root user")
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_child;
    use super::*;
    use nix::unistd::getgroups;

    #[test]
    fn groups_are_exactly_the_configurations() {
        for groups in [vec![], vec![7], vec![10, 11]] {
            let process = serde_json::json!({"cwd": "/",
                "user": {"uid": 0, "gid": 0, "additionalGids": groups}});
            let process: Process = serde_json::from_value(process).unwrap();
            let mut spec = Spec::default();
            spec.set_process(None);
            let credentials = Credentials::new(&process, &spec);
            in_child(|| {
                setgroups(&[Gid::from_raw(5), Gid::from_raw(6)]).unwrap();
                credentials.assume(true).unwrap();
                let now: Vec<_> = getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
                assert_eq!(now, groups);
            });
        }
    }

    #[test]
    fn a_user_namespace_may_forbid_groups() {
        assert!(may_set_groups(&HostProc::open().unwrap()));
        in_child(|| {
            let proc = HostProc::open().unwrap();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
            proc.write("self/setgroups", "deny").unwrap();
            assert!(!may_set_groups(&proc));
        });
    }
}
