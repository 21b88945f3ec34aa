//! The pod's pid namespace, for containers that have none of their own.
//!
//! Under CRI they share the one of the pod's pause container, which is not run in a guest. The guest's
//! own would show them the agent, which they could then kill. So there is one more, made when the first
//! container asks for it, with a process that holds it and reaps.

use std::path::PathBuf;
use std::sync::Mutex;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType};
use trefoil_core::{Context, Result};
use trefoil_os::lock;

use crate::machine;

/// Who holds the namespace, once there is one.
#[derive(Default)]
pub(crate) struct PodPids(Mutex<Option<u32>>);

impl PodPids {
    /// Puts a container that has no pid namespace of its own into the pod's.
    ///
    /// # Errors
    /// What making the namespace fails with.
    pub(crate) fn share_with(&self, linux: &mut Linux) -> Result<()> {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let is_pid = |one: &LinuxNamespace| one.typ() == LinuxNamespaceType::Pid;
        if namespaces.iter().any(is_pid) {
            return Ok(());
        }
        let mut shared = LinuxNamespace::default();
        shared.set_typ(LinuxNamespaceType::Pid);
        shared.set_path(Some(self.path()?));
        namespaces.push(shared);
        linux.set_namespaces(Some(namespaces));
        Ok(())
    }

    fn path(&self) -> Result<PathBuf> {
        let mut holder = lock(&self.0);
        let pid = match *holder {
            Some(pid) => pid,
            None => {
                let pid = machine::hold_pids().context(|| "make the pod's pid namespace")?;
                *holder = Some(pid);
                pid
            }
        };
        Ok(format!("/proc/{pid}/ns/pid").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_its_own_keeps_it() {
        let mut linux = Linux::default();
        let mut own = LinuxNamespace::default();
        own.set_typ(LinuxNamespaceType::Pid);
        linux.set_namespaces(Some(vec![own]));
        let before = linux.clone();
        let pids = PodPids::default();
        pids.share_with(&mut linux).expect("nothing to do");
        assert_eq!(linux, before);
        assert!(pids.0.lock().expect("lock").is_none());
    }

    #[test]
    fn all_others_share_one_that_reaps() {
        let pids = PodPids::default();
        let path = || {
            let mut linux = Linux::default();
            linux.set_namespaces(Some(Vec::new()));
            pids.share_with(&mut linux).expect("share");
            let namespaces = linux.namespaces().clone().expect("namespaces");
            namespaces[0].path().clone().expect("a path")
        };
        let (one, other) = (path(), path());
        assert_eq!(one, other);
        let theirs = std::fs::read_link(&one).expect("it is held");
        let ours = std::fs::read_link("/proc/self/ns/pid").expect("ours");
        assert_ne!(theirs, ours);
        let holder = pids.0.lock().expect("lock").take().expect("a holder");
        let open = || {
            let open = std::fs::read_dir(format!("/proc/{holder}/fd"));
            open.expect("descriptors").count()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while open() > 0 {
            assert!(std::time::Instant::now() < deadline, "it closes nothing");
            std::thread::yield_now();
        }
        let pid = nix::unistd::Pid::from_raw(holder.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        nix::sys::wait::waitpid(pid, None).expect("reap");
    }
}
