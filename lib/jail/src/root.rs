//! An empty root directory.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::Failure;

const NONE: Option<&str> = None;

/// Any directory will do to put the new root on: it is in our own namespace, and soon gone. This one
/// exists: it was just read.
pub const PLACE: &str = "/proc";

/// Has no mount that is made or removed here from now on appear on the host, nor the other way.
pub(crate) fn keep_mounts_private() -> Result<(), Failure> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(Failure::at("keep mounts to itself"))
}

/// Leaves the process with a root in which nothing is and nothing can be made, and without any
/// other mount. What is mounted on the host stays mounted there, and can be unmounted there.
///
/// # Errors
/// If the kernel refuses; then the root is any of both.
pub fn empty() -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let options = Some("size=4k,nr_inodes=1,mode=0");
    mount(Some("none"), PLACE, Some("tmpfs"), flags, options)
        .map_err(Failure::at("mount an empty root"))?;
    enter()
}

/// Makes what is mounted at [`PLACE`] the root, and leaves the old one.
///
/// # Errors
/// As [`empty`].
pub fn enter() -> Result<(), Failure> {
    chdir(PLACE).map_err(Failure::at("go to the new root"))?;
    // The old root is put on top of the new one, from where it is taken off.
    pivot_root(".", ".").map_err(Failure::at("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Failure::at("leave the old root"))?;
    chdir("/").map_err(Failure::at("go to the new root"))
}
