//! Removing a cgroup with everything below it.

use std::fs;
use std::time::Duration;

use libcgroups::common::{CgroupConfig, CgroupManager, create_cgroup_manager};

use super::Cgroup;
use super::error::{Result, by_systemd, timed_out};
use super::tree::walk;

/// How long [`Cgroup::remove`] waits for processes to die.
const REMOVE_WAIT: Duration = Duration::from_millis(300);
/// How long it waits for dead ones to leave. They are listed no more while the kernel frees their
/// memory, which takes it a second for some gigabytes.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// How long killed processes may take to end in [`Cgroup::kill_and_remove`].
const DYING_WAIT: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Tries once to remove the cgroup and all below it, in every hierarchy; `false` if a process (or
    /// one that is still dying) is in it. What does not exist is removed already. Never kills: that is
    /// [`Cgroup::kill_all`].
    ///
    /// # Errors
    /// If it cannot be removed for another reason than being busy. All else that could be, was.
    pub fn try_remove(&self) -> Result<bool> {
        let mut all = true;
        let mut outcome = Ok(());
        for root in self.roots() {
            // Mostly there is nothing below.
            if fs::remove_dir(root).is_ok() {
                continue;
            }
            let walked = walk(root, |place| {
                all &= place.remove()?;
                Ok(())
            });
            outcome = outcome.and(walked);
        }
        outcome.map(|()| all)
    }

    /// Removes the cgroup, waiting at most 300 ms for processes in it to die and 5 s for the dead to
    /// leave it. The systemd unit, if it is one's cgroup, is stopped first.
    ///
    /// # Errors
    /// If it cannot be removed, or is still busy when the time is over.
    pub fn remove(&self) -> Result<()> {
        self.stop_unit()?;
        let action = "remove";
        self.wait(action, LEAVE_WAIT, |waited| {
            if self.try_remove()? {
                return Ok(true);
            }
            if waited >= REMOVE_WAIT && !self.processes()?.is_empty() {
                return Err(timed_out(action, self.path(), waited));
            }
            Ok(false)
        })
    }

    /// Kills what still runs in the cgroup, waits until it has ended, at most 5 s, and removes the cgroup.
    /// Returns how many processes there were. It is removed, if that can be, even where killing has failed.
    ///
    /// # Errors
    /// The first that failed.
    pub fn kill_and_remove(&self) -> Result<usize> {
        let killed = self.kill_left_behind();
        let removed = self.remove();
        let count = killed?;
        removed.map(|()| count)
    }

    fn kill_left_behind(&self) -> Result<usize> {
        if !self.exists() {
            return Ok(0);
        }
        let left = self.processes()?.len();
        if left == 0 {
            return Ok(0);
        }
        self.wait("kill the processes in", DYING_WAIT, |_| {
            self.kill_all(libc::SIGKILL)?;
            Ok(self.processes()?.is_empty())
        })?;
        Ok(left)
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
        let failed = |why: String| by_systemd("stop", unit, why);
        let manager = self.manager().map_err(|why| failed(why.to_string()))?;
        manager.remove().map_err(|why| failed(why.to_string()))
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
