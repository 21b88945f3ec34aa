//! Removing a cgroup with everything below it.

use std::fs;
use std::io;
use std::time::Duration;

use libcgroups::common::{CgroupConfig, CgroupManager, create_cgroup_manager};

use super::Cgroup;
use super::error::{Doing, Error, Result, is_absent};
use super::file::tree;

/// How long [`Cgroup::remove`] waits for dying processes to leave.
const REMOVE_WAIT: Duration = Duration::from_millis(300);

impl Cgroup {
    /// Tries once to remove the cgroup and all below it; `false` if a process (or one that is still
    /// dying) is in it. What does not exist is removed already. Never kills: that is
    /// [`Cgroup::kill_all`].
    ///
    /// # Errors
    /// If it cannot be removed for another reason than being busy.
    pub fn try_remove(&self) -> Result<bool> {
        let mut all = true;
        for root in self.roots() {
            if !root.exists() {
                continue;
            }
            for dir in tree(root)? {
                match fs::remove_dir(&dir) {
                    Ok(()) => {}
                    Err(error) if is_absent(&error) => {}
                    Err(error) if is_busy(&error) => all = false,
                    Err(error) => return Err(error).doing("remove", &dir),
                }
            }
        }
        Ok(all)
    }

    /// Removes the cgroup, waiting at most 300 ms for dying processes to leave it. The systemd
    /// unit, if it is one's cgroup, is stopped first.
    ///
    /// # Errors
    /// If it cannot be removed, or is still busy when the time is over.
    pub fn remove(&self) -> Result<()> {
        self.stop_unit()?;
        self.wait("remove", REMOVE_WAIT, |_| self.try_remove())
    }

    /// Stops the systemd unit that this is the cgroup of; does nothing for other cgroups and for a
    /// unit that is gone. systemd kills the processes of a scope that it stops. Talks D-Bus, which
    /// may take seconds if systemd is slow.
    ///
    /// # Errors
    /// If systemd cannot be asked or refuses.
    pub fn stop_unit(&self) -> Result<()> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let failed = |reason: String| Error::Systemd {
            action: "stop",
            unit: unit.clone(),
            reason,
        };
        let manager = self.manager().map_err(|error| failed(error.to_string()))?;
        manager.remove().map_err(|error| failed(error.to_string()))
    }

    /// libcgroups' manager of the same cgroup. For a systemd unit, making one connects to D-Bus.
    pub(super) fn manager(
        &self,
    ) -> std::result::Result<
        libcgroups::common::AnyCgroupManager,
        libcgroups::common::CreateCgroupSetupError,
    > {
        create_cgroup_manager(CgroupConfig {
            cgroup_path: self.spec_path.clone(),
            systemd_cgroup: self.unit.is_some(),
            container_name: self.id.clone(),
        })
    }
}

/// A cgroup with processes or children is busy. Children show up here when they are made while we
/// remove.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
}
