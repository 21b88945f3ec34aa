//! Not waiting for the kernel where it can be made to wait earlier.
//!
//! The first move of a process into another cgroup waits for an RCU grace period, 5 to 15 ms; moves soon
//! after it don't (`cgroup_threadgroup_rwsem`, a percpu rwsem, is in its slow mode by then). Making a
//! container moves its init. So a child that moves itself to where it is has the kernel wait while we still
//! prepare, or containerd still connects.

use std::fs;
use std::path::PathBuf;

use super::helper::fork_sibling;

/// Has the kernel wait its grace period now, beside us. That it can't is no failure: the move of the init
/// then waits itself.
pub(super) fn begin() {
    if let Ok(true) = fork_sibling() {
        if let Some(place) = own_cgroup() {
            let _ = fs::write(place, "0");
        }
        // SAFETY: ends this process at once; nothing of the process it was forked from runs.
        unsafe { libc::_exit(0) }
    }
}

/// The `cgroup.procs` of a cgroup this process is in. All hierarchies share the lock: any will do.
fn own_cgroup() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines()
        .filter_map(procs_file)
        .find(|file| file.exists())
}

/// Where the cgroup of a line of `/proc/self/cgroup` is, by custom.
fn procs_file(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let mut file = PathBuf::from("/sys/fs/cgroup");
    file.push(controllers.trim_start_matches("name="));
    file.push(path.trim_start_matches('/'));
    file.push("cgroup.procs");
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_versions_are_understood() {
        let file = |line| procs_file(line).map(|file| file.display().to_string());
        assert_eq!(
            file("0::/system.slice/a").as_deref(),
            Some("/sys/fs/cgroup/system.slice/a/cgroup.procs")
        );
        assert_eq!(
            file("4:cpu,cpuacct:/").as_deref(),
            Some("/sys/fs/cgroup/cpu,cpuacct/cgroup.procs")
        );
        assert_eq!(
            file("9:name=systemd:/x:y").as_deref(),
            Some("/sys/fs/cgroup/systemd/x:y/cgroup.procs")
        );
        assert_eq!(file("nonsense"), None);
    }

    #[test]
    fn this_process_is_in_a_cgroup_that_is_found() {
        assert!(own_cgroup().is_some());
    }
}
