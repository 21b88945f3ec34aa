//! The limits and device rules of a new container.

use oci_spec::runtime::LinuxResources;

use super::error::{Result, unusable};
use super::{Cgroup, devices};

impl Cgroup {
    /// Sets all limits of a new container and the devices that it may use. The cgroup must exist, and
    /// a systemd unit have its process, so it comes after [`add`](Cgroup::add); but before the
    /// container's program runs. Without resources, or without device rules among them, only those
    /// devices may be used that every container may.
    ///
    /// # Errors
    /// If the resources contradict themselves, ask for what this machine cannot do, or the kernel
    /// refuses a value. Each of them is set or refused: none is left out.
    pub fn limit(&self, resources: Option<&LinuxResources>) -> Result<()> {
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        let rules = rules.unwrap_or_default();
        devices::check(rules).map_err(|reason| unusable(self.path(), reason))?;
        self.allow_devices(rules)?;
        resources.map_or(Ok(()), |resources| self.update(resources))
    }
}
