//! Giving a cgroup to the container that lives in it.
//!
//! The runtime specification ("Cgroup ownership") wants this on v2, for a container with a cgroup
//! namespace of its own and a writable mount of it: the user of its process may then make cgroups below.
//! It never gives away the limits, which are not among the files that the kernel names.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, Mode, OFlags, chownat, fchown, open};

use super::Cgroup;
use super::error::{Doing, Result, is_absent};
use super::layout::Layout;

/// The kernel's list of files that go with a cgroup, a name on each line (Linux 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// What cgroups(7) names for kernels without the list.
const ALWAYS: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

impl Cgroup {
    /// Makes the cgroup, and those of its files that the kernel names for this, the property of a user
    /// and group, as the host numbers them. Files that are missing are skipped. Does nothing on v1,
    /// which knows no delegation.
    ///
    /// # Errors
    /// If the cgroup does not exist, or its owner can't be changed.
    pub fn delegate(&self, uid: Uid, gid: Gid) -> Result<()> {
        let Layout::V2(path) = &self.layout else {
            return Ok(());
        };
        let uid = Some(rustix::fs::Uid::from_raw(uid.as_raw()));
        let gid = Some(rustix::fs::Gid::from_raw(gid.as_raw()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty()).doing("open", path)?;
        fchown(&dir, uid, gid).doing("change the owner of", path)?;
        for name in names(fs::read_to_string(Path::new(LIST)).ok()) {
            let changed = chownat(&dir, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            match changed.map_err(io::Error::from) {
                Err(why) if is_absent(&why) => {}
                changed => changed.doing("change the owner of", &path.join(&name))?,
            }
        }
        Ok(())
    }
}

fn names(list: Option<String>) -> Vec<String> {
    match list {
        Some(list) => list
            .lines()
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect(),
        None => ALWAYS.map(str::to_owned).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_counts_where_there_is_one() {
        let list = "cgroup.procs\nmemory.reclaim\n../x\n\n".to_owned();
        assert_eq!(names(Some(list)), ["cgroup.procs", "memory.reclaim"]);
        assert_eq!(names(None), ALWAYS);
    }
}
