//! The root that containers are made from.
//!
//! A container leaves its first root by pivot_root(2), which the kernel refuses in the initramfs: that is
//! the one mount that nothing lies under. Moving a mount over it instead (libcontainer's `no_pivot`) would
//! leave all of the guest's mounts below the container's root, for whoever breaks out of a chroot. So the
//! guest's root becomes a mount like any other, once, before there is a container.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, mkdir};

/// Where the new root is put together.
const NEW: &str = "/new";

/// What is mounted in the first root, in the order of mounting.
const MOVED: &[&str] = &["/proc", "/sys", "/dev", "/run"];

/// Makes the initramfs a mount upon itself, with the guest's mounts in it, and that the root of this
/// process. A failure names the step.
pub(crate) fn leave_initramfs() -> Result<(), (&'static str, Errno)> {
    let none = None::<&str>;
    let step = |name| move |why| (name, why);
    mkdir(NEW, Mode::S_IRWXU).map_err(step("make a directory"))?;
    // Without what is mounted in it: that is moved.
    mount(Some("/"), NEW, none, MsFlags::MS_BIND, none).map_err(step("bind it"))?;
    // A bind mount's own flags take a second call. Nothing is written to the root any more, and its
    // programs are ours.
    let tight = MsFlags::MS_BIND
        .union(MsFlags::MS_REMOUNT)
        .union(MsFlags::MS_RDONLY)
        .union(MsFlags::MS_NOSUID)
        .union(MsFlags::MS_NODEV);
    mount(none, NEW, none, tight, none).map_err(step("make it read-only"))?;
    chdir(NEW).map_err(step("enter it"))?;
    for place in MOVED {
        let to = Path::new(".").join(&place[1..]);
        mount(Some(*place), &to, none, MsFlags::MS_MOVE, none).map_err(step("move a mount"))?;
    }
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(step("move it over the old"))?;
    chroot(".").map_err(step("change to it"))?;
    chdir("/").map_err(step("change to it"))
}
