//! Putting a process into a cgroup, and ourselves out of it again.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::Pid;

use libcgroups::common::CgroupManager;

use super::error::{Result, not_joined, not_written};
use super::layout::{self, Controller, CurrentCgroup};
use super::{Cgroup, file};

/// How often, and after which pauses, it is tried again to move a process that is just being made.
const NEWBORN_TRIES: usize = 5;
const NEWBORN_PAUSE: Duration = Duration::from_millis(30);

/// The cgroups that this process was in before it entered another.
#[derive(Clone, Debug)]
pub struct Origin(Vec<CurrentCgroup>);

impl Origin {
    /// Puts this process back into them; into the root of the hierarchy where one is gone, as whoever
    /// started us may be.
    ///
    /// # Errors
    /// If one takes no process any more. It is back in the others.
    pub fn back(&self) -> Result<()> {
        let mut outcome = Ok(());
        for own in &self.0 {
            let entered = match enter(&own.directory) {
                Err(_) if !own.directory.exists() => enter(&own.mount),
                entered => entered,
            };
            outcome = outcome.and(entered);
        }
        outcome
    }
}

/// Puts this process into a cgroup.
fn enter(directory: &Path) -> Result<()> {
    let path = directory.join("cgroup.procs");
    // 0 is the process that writes.
    let value = "0";
    fs::write(&path, value).map_err(|source| not_written(value, &path, source))
}

/// Puts a process into a cgroup. The kernel calls a process invalid that is just being made.
fn put(directory: &Path, pid: Pid) -> Result<()> {
    let path = directory.join("cgroup.procs");
    let mut outcome = file::write(&path, &pid.to_string());
    for _ in 0..NEWBORN_TRIES {
        match &outcome {
            Err(why) if why.raw_os_error() == Some(libc::EINVAL) => {
                sleep(NEWBORN_PAUSE);
                outcome = file::write(&path, &pid.to_string());
            }
            _ => break,
        }
    }
    let doing = || format!("put process {pid} into {}", directory.display());
    outcome.map_err(|why| why.context(doing()))
}

/// Has the kernel wait now, and not when a process is moved into another cgroup: for a child that was forked
/// for this, as it takes 5 to 15 ms.
///
/// The first move waits for an RCU grace period; moves soon after it don't (`cgroup_threadgroup_rwsem`, a
/// percpu rwsem, is in its slow mode by then). Making a container moves its init, and a microVM's shim moves
/// itself: so what moves itself to where it is has the kernel wait while we still prepare, or containerd
/// still connects.
///
/// # Errors
/// If this process may not be moved. Then the move to come waits itself.
pub fn pass_grace_period() -> Result<()> {
    // All hierarchies share the lock: any will do.
    let any = layout::current()?.into_iter().next();
    any.map_or(Ok(()), |own| enter(&own.directory))
}

impl Cgroup {
    /// Whether systemd keeps it, so that making and removing it talks D-Bus, which may take seconds if
    /// systemd is slow.
    #[must_use]
    pub fn is_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// Puts a process into the cgroup, in every hierarchy. The cgroup is made if it isn't there, with
    /// its controllers and without limits. A process that is in already stays.
    ///
    /// # Errors
    /// If it can't be made, or the process is gone.
    pub fn add(&self, pid: Pid) -> Result<()> {
        if self.is_unit() {
            return self.add_to_unit(pid);
        }
        if !self.roots().all(Path::exists) {
            self.make()?;
        }
        for (controller, dir) in self.members() {
            match put(dir, pid) {
                // As in `make`.
                Err(_) if controller == Some(Controller::Unified) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn add_to_unit(&self, pid: Pid) -> Result<()> {
        let manager = self
            .manager()
            .map_err(|why| not_joined(pid, self.path(), why))?;
        let task = nix_of_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        manager
            .add_task(task)
            .map_err(|why| not_joined(pid, self.path(), why))
    }

    /// Puts this process into the cgroup, which is made if it isn't there: what it starts from then on
    /// is in it as well. It can't be removed before this process is [`back`](Origin::back) where it was.
    ///
    /// # Errors
    /// If it can't be made, or where this process is can't be told. It is where it was then.
    pub fn enter(&self) -> Result<Origin> {
        let origin = Origin(layout::current()?);
        match self.add(Pid::this()) {
            Ok(()) => Ok(origin),
            // In some hierarchies it may be inside by now.
            Err(why) => origin.back().and(Err(why)),
        }
    }
}
