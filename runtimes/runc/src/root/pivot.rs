//! Leaving the host's root for the container's.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use trefoil_os::mountinfo;

use super::propagation::Propagation;
use super::reason::{Outcome, Reason};

/// Makes `root`, a mount, the root of the mount namespace, and takes away all that was there before. The
/// current directory is the root then.
pub(super) fn pivot(root: BorrowedFd<'_>) -> Outcome<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = open("/", flags, Mode::empty())?;
    fchdir(root)?;
    // The old root comes to lie upon the new one: no directory is needed for it.
    pivot_root(".", ".")?;
    // What a hook has mounted may be shared with the host, which is not to lose it.
    Propagation::new(libc::MS_SLAVE, true).apply(old.as_fd())?;
    fchdir(&old)?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// Moves `root` over the namespace's root, for where that can't be pivoted: on an initramfs. All that was
/// there stays, hidden below.
pub(super) fn move_over(root: BorrowedFd<'_>) -> Outcome<()> {
    hide_kernel(root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", flags)?;
    fchdir(root)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// Takes whole mounts of proc and sysfs away, except for those below `root`. The kernel lets a container
/// mount these filesystems anew, without what covers parts of them, only if there is a whole one already:
/// one that the container never sees must not count.
fn hide_kernel(root: BorrowedFd<'_>) -> Outcome<()> {
    let id = statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
    for place in whole_ones(&table, id) {
        match unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // One before it had this below it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::INVAL | Errno::PERM) => {
                mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None)?;
            }
            Err(why) => return Err(Reason::from(why).with(&place.display().to_string())),
        }
    }
    Ok(())
}

/// Where whole mounts of proc and sysfs are, of a table as in proc_pid_mountinfo(5), the latest first.
fn whole_ones(table: &[u8], root: u64) -> Vec<PathBuf> {
    let mut parents = HashMap::new();
    let mut found = Vec::new();
    for mount in mountinfo::parse(table) {
        parents.insert(mount.id, mount.parent);
        if mount.root == Path::new("/") && matches!(mount.kind.as_str(), "proc" | "sysfs") {
            found.push((mount.id, mount.point));
        }
    }
    found.retain(|(id, _)| !is_below(*id, root, &parents));
    found.into_iter().rev().map(|(_, place)| place).collect()
}

fn is_below(mut id: u64, root: u64, parents: &HashMap<u64, u64>) -> bool {
    let mut seen = HashSet::new();
    while id != root {
        match parents.get(&id) {
            Some(parent) if seen.insert(id) => id = *parent,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ones_outside_of_the_root_are_found() {
        let table = b"22 27 0:21 / /proc rw - proc proc rw\n\
                     23 27 0:22 / /sys\\040x rw - sysfs sysfs rw\n\
                     24 27 0:21 /sys /half rw - proc proc rw\n\
                     27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     30 27 0:40 / /box rw - overlay overlay rw\n\
                     31 30 0:41 / /box/proc rw - proc proc rw\n\
                     32 31 0:22 / /box/proc/x rw - sysfs sysfs rw\n";
        let found = whole_ones(table, 30);
        assert_eq!(found, [PathBuf::from("/sys x"), PathBuf::from("/proc")]);
        assert!(whole_ones(b"1 1 0:0 / / rw - proc p rw\n", 9).len() == 1);
    }
}
