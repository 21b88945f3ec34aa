//! Putting a process that is no container's init into a cgroup.

use nix::unistd::Pid;

use libcgroups::common::CgroupManager;

use super::Cgroup;
use super::error::{Error, Result};

impl Cgroup {
    /// Whether systemd keeps it, so that making and removing it talks D-Bus, which may take seconds if
    /// systemd is slow.
    #[must_use]
    pub fn is_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// Puts a process into the cgroup, which is made if it isn't there, with its controllers and without
    /// limits.
    ///
    /// # Errors
    /// If it can't be made, or the process is gone.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let failed = |reason: String| Error::Join {
            pid: pid.as_raw(),
            path: self.path().to_path_buf(),
            reason,
        };
        let manager = self.manager().map_err(|why| failed(why.to_string()))?;
        let pid = nix_of_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        manager.add_task(pid).map_err(|why| failed(why.to_string()))
    }
}
