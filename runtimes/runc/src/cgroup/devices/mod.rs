//! Which devices a container may use, on cgroup v2.
//!
//! v2 has no device files as v1 has: access is decided by an eBPF program attached to the cgroup.
//! libcgroups brings one only with a C library, so we make our own: [`rules`] says what the OCI
//! rules mean, [`program`] turns them into instructions, [`bpf`] gives those to the kernel.

mod bpf;
mod program;
mod rules;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::Cgroup;
use super::error::{Doing, Result};
use super::layout::Layout;

impl Cgroup {
    /// Makes the rules of `linux.resources.devices` the ones that hold for the cgroup, with the
    /// devices added that every container may use. Whatever rules it had are replaced; those of its
    /// parents go on to hold.
    ///
    /// Does nothing on v1, where libcontainer writes the rules when it creates the cgroup. On v2 it
    /// must be called after the cgroup was created and before the container's own program starts.
    ///
    /// # Errors
    /// If the cgroup does not exist or the kernel does not take the program.
    pub fn allow_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let Layout::V2(path) = &self.layout else {
            return Ok(());
        };
        let program = program::encode(&rules::compile(rules));
        let dir = std::fs::File::open(path).doing("open", path)?;
        bpf::replace(&dir, path, &program)
    }
}
