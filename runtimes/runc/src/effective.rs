//! The configuration as libcontainer is to read it: containerd's, but for what this machine doesn't allow
//! and what libcontainer understands otherwise than containerd means it.

use oci_spec::runtime::Spec;
use trefoil_core::{Context, Result};

use crate::cgroup;

/// Adapts a container's configuration. Runs in a worker, whose OOM score it may change.
pub fn adapt(spec: &mut Spec) -> Result<()> {
    keep_oom_score_possible(spec)?;
    leave_weight_to_us(spec);
    name_propagation(spec);
    Ok(())
}

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Takes a score out of `spec` that this process may not set: without CAP_SYS_RESOURCE nobody may go
/// below the score they have. The container then keeps the score it inherits, as with runc in a user
/// namespace.
fn keep_oom_score_possible(spec: &mut Spec) -> Result<()> {
    let Some(process) = spec.process_mut() else {
        return Ok(());
    };
    let Some(wanted) = process.oom_score_adj() else {
        return Ok(());
    };
    match std::fs::write(OOM_SCORE, wanted.to_string()) {
        Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => {
            process.set_oom_score_adj(None);
            Ok(())
        }
        outcome => outcome.context(|| format!("set the OOM score {wanted}")),
    }
}

/// libcontainer makes the root's propagation recursive always, and knows only the names that don't say so.
fn name_propagation(spec: &mut Spec) {
    if let Some(linux) = spec.linux_mut()
        && let Some(name) = linux.rootfs_propagation()
        && let Some(plain) = name.strip_prefix('r')
    {
        let plain = plain.to_owned();
        linux.set_rootfs_propagation(Some(plain));
    }
}

/// Takes the block I/O weight out of what libcgroups is to set on cgroup v2: it would compute another, in
/// too few bits. [`limit`] sets it.
fn leave_weight_to_us(spec: &mut Spec) {
    let resources = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.resources_mut().as_mut());
    if let Some(resources) = resources
        && cgroup::is_v2()
        && let Some(block_io) = resources.block_io_mut()
    {
        block_io.set_weight(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxBuilder, SpecBuilder};

    #[test]
    fn propagation_loses_its_prefix_and_nothing_else() {
        for (given, expected) in [
            ("rslave", "slave"),
            ("rshared", "shared"),
            ("private", "private"),
        ] {
            let linux = LinuxBuilder::default()
                .rootfs_propagation(given)
                .build()
                .expect("linux");
            let mut spec = SpecBuilder::default().linux(linux).build().expect("spec");
            name_propagation(&mut spec);
            let named = spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.rootfs_propagation().clone());
            assert_eq!(named.as_deref(), Some(expected));
        }
    }
}
