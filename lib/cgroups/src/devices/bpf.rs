//! Giving a cgroup its device program.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use trefoil_bpf::{Instruction, Program, attach, attached, by_id, detach};

use super::super::error::{Result, failed};

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Makes `program` the only device program of a cgroup.
///
/// The new one is attached before the old ones go: in between a device needs the consent of all of
/// them, so there is no moment without rules.
pub(super) fn replace(cgroup: &File, path: &Path, program: &[Instruction]) -> Result<()> {
    let failed =
        |what: &'static str| move |source: io::Error| failed(&format!("{what} of"), path, source);
    let new = load(program).map_err(failed("load the device rules"))?;
    let (old, flags) =
        attached(cgroup.as_fd(), ATTACH_CGROUP_DEVICE).map_err(failed("list the device rules"))?;
    // A program attached in the exclusive way must go before one that is not can come.
    let exclusive = !old.is_empty() && flags & ALLOW_MULTI == 0;
    if exclusive {
        detach_all(cgroup, &old).map_err(failed("detach old device rules"))?;
    }
    attach(
        cgroup.as_fd(),
        new.as_fd(),
        ATTACH_CGROUP_DEVICE,
        ALLOW_MULTI,
    )
    .map_err(failed("attach the device rules"))?;
    if !exclusive {
        detach_all(cgroup, &old).map_err(failed("detach old device rules"))?;
    }
    Ok(())
}

fn detach_all(cgroup: &File, programs: &[u32]) -> io::Result<()> {
    for id in programs {
        match by_id(*id)
            .and_then(|program| detach(cgroup.as_fd(), program.as_fd(), ATTACH_CGROUP_DEVICE))
        {
            // Someone else detached it meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    trefoil_bpf::load(&Program {
        kind: TYPE_CGROUP_DEVICE,
        attach: 0,
        name: "trefoil_devices",
        instructions: program,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use libcgroups::common::{CgroupSetup, get_cgroup_setup};
    use nix::unistd::Uid;

    use super::super::{program, rules};
    use super::*;

    #[test]
    fn one_program_is_left_whatever_was_there() {
        assert!(
            Uid::effective().is_root(),
            "this test makes real cgroups: run it as root"
        );
        if !matches!(get_cgroup_setup().unwrap(), CgroupSetup::Unified) {
            return; // v1 has files for this
        }
        let path = format!("/sys/fs/cgroup/trefoil-test-bpf-{}", std::process::id());
        let path = Path::new(&path);
        fs::create_dir(path).unwrap();
        let cgroup = File::open(path).unwrap();
        let program = program::encode(&rules::compile(&[]));
        for flags in [ALLOW_MULTI, ALLOW_MULTI, 0] {
            let other = load(&program).unwrap();
            attach(cgroup.as_fd(), other.as_fd(), ATTACH_CGROUP_DEVICE, flags).unwrap();
            let (before, _) = attached(cgroup.as_fd(), ATTACH_CGROUP_DEVICE).unwrap();
            replace(&cgroup, path, &program).unwrap();
            let (after, flags) = attached(cgroup.as_fd(), ATTACH_CGROUP_DEVICE).unwrap();
            assert_eq!((after.len(), flags), (1, ALLOW_MULTI));
            assert!(!before.contains(&after[0]));
            // The next round starts without any: the kernel does not mix the two ways.
            detach_all(&cgroup, &after).unwrap();
        }
        fs::remove_dir(path).unwrap();
    }
}
