//! Mandatory access control: the AppArmor profile or SELinux label the program starts under.
//!
//! Both are told to the kernel beforehand and take effect at `execve`. They are written through
//! the host's procfs: on the container's, a planted file could swallow the write.

use oci_spec::runtime::{Process, Spec};
use trefoil_os::selinux;

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

/// What to start under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// What the process, or else the container, asks for. To be called on the host.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Result<Self, Failure> {
        let asked = Self::asked(process, spec);
        if let Some(label) = &asked.selinux
            && !selinux::is_enabled()
        {
            return Err(Failure::new(selinux::refusal(label).to_string()));
        }
        Ok(asked)
    }

    fn asked(process: &Process, spec: &Spec) -> Self {
        let first = |of: fn(&Process) -> &Option<String>| {
            [Some(process), spec.process().as_ref()]
                .into_iter()
                .flatten()
                .filter_map(|process| of(process).clone())
                .find(|label| !label.is_empty())
        };
        Self {
            apparmor: first(Process::apparmor_profile),
            selinux: first(Process::selinux_label),
        }
    }

    /// Tells the kernel.
    pub(crate) fn apply(&self, proc: &HostProc) -> Result<(), Failure> {
        if let Some(label) = &self.selinux {
            proc.write("thread-self/attr/exec", label)
                .doing(|| format!("apply SELinux label {label:?}"))?;
        }
        if let Some(profile) = &self.apparmor {
            // Where several security modules are active, each has attributes of its own.
            let own = "thread-self/attr/apparmor/exec";
            let file = if proc.has(own) {
                own
            } else {
                "thread-self/attr/exec"
            };
            proc.write(file, &format!("exec {profile}"))
                .doing(|| format!("apply AppArmor profile {profile:?}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    #[test]
    fn the_containers_labels_stand_in_for_missing_ones() {
        let init = ProcessBuilder::default()
            .apparmor_profile("theirs")
            .build()
            .unwrap();
        let spec = SpecBuilder::default().process(init).build().unwrap();
        let with = |profile: &str| {
            let process = ProcessBuilder::default()
                .apparmor_profile(profile)
                .build()
                .unwrap();
            Labels::asked(&process, &spec).apparmor
        };
        assert_eq!(with("own").as_deref(), Some("own"));
        assert_eq!(with("").as_deref(), Some("theirs"));
    }
}
