//! Which devices a container may use.
//!
//! On v1 a cgroup has lists of devices. v2 has no files for that: access is decided by an eBPF program
//! attached to the cgroup. libcgroups brings one only with a C library, so we make our own. [`rules`]
//! says what the OCI rules mean, [`lists`] turns them into v1's lists, [`program`] into instructions,
//! which [`bpf`] gives to the kernel.

mod bpf;
mod lists;
mod program;
mod rules;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::error::{Doing, Result, unavailable, unusable};
use super::layout::{Controller, Layout};
use super::{Cgroup, file};
use lists::Lists;
use rules::Rule;
use trefoil_os::rootless::in_user_namespace;

impl Cgroup {
    /// Makes the rules of `linux.resources.devices` the ones that hold for the cgroup, with the
    /// devices added that every container may use. Whatever rules it had are replaced; those of its
    /// parents go on to hold.
    ///
    /// It must be called after the cgroup was created and before the container's own program starts.
    /// On v1 the cgroup may not have any other below it, and for a moment no device may be used.
    ///
    /// # Errors
    /// If the cgroup does not exist or the kernel does not take the rules; on v1 also if they can't be
    /// said there.
    pub fn allow_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let rules = rules::compile(rules);
        match &self.layout {
            Layout::V1(_) => self.write_lists(&rules),
            // Whose root can load no program, nor make a device: its containers have those that are bound.
            Layout::V2(_) if in_user_namespace() => Ok(()),
            Layout::V2(path) => {
                let program = program::encode(&rules);
                let dir = std::fs::File::open(path).doing("open", path)?;
                bpf::replace(&dir, path, &program)
            }
        }
    }

    fn write_lists(&self, rules: &[Rule]) -> Result<()> {
        let path = self.path();
        let lists = Lists::of(rules).map_err(|reason| unusable(path, reason))?;
        let dir = self
            .v1(Controller::Devices)
            .ok_or_else(|| unavailable("limit the devices of", path, "devices controller"))?;
        lists
            .writes()
            .try_for_each(|(name, line)| file::write(&dir.join(name), &line))
    }
}

/// Refuses rules without a meaning, which would be left out.
///
/// # Errors
/// Which rule, and what is wrong with it.
pub(super) fn check(rules: &[LinuxDeviceCgroup]) -> std::result::Result<(), String> {
    rules.iter().enumerate().try_for_each(|(index, rule)| {
        rules::check(rule).map_err(|why| format!("device rule {index} {why}"))
    })
}
