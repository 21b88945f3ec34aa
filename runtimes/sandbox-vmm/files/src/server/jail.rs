//! The server's jail.
//!
//! Whoever takes the server over has: the pod's trees, which its guest could change anyway, and no
//! other file, its root being a small directory that can't be written; the capabilities of
//! [`super::capabilities`], good for those trees only; its descriptors; namespaces of its own with
//! nothing in them; and the system calls of [`super::filter`].

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{chdir, fchdir, pivot_root};
use trefoil_os::detached::{self, Depth, Tree};
use trefoil_vmm::jail::limits::limit;
use trefoil_vmm::jail::{Failure, credentials, namespaces};

use super::capabilities::KEPT;
use crate::message::Launch;

/// What the process is called.
const NAME: &std::ffi::CStr = c"trefoil-files";

const NONE: Option<&str> = None;

/// Any directory will do to mount on: it is in our own namespace, and soon gone.
const PLACE: &str = "/proc";

/// Mount points, and the root itself: how many trees there can be.
const ROOT_OPTIONS: &str = "size=1m,nr_inodes=1024,mode=0755";

/// Descriptors beside the files that are held: sockets, kicks, memory, and what is opened for one
/// request.
const OTHER_DESCRIPTORS: u32 = 128;
/// What the limit is of.
const DESCRIPTORS: &str = "open descriptors";

/// Closes the jail around this process. What it leaves is a root with nothing in it, where the
/// parent puts the trees, and the process's own descriptors as its working directory. Says how many
/// files it may hold open.
pub fn enter(launch: &Launch) -> Result<u32, Failure> {
    credentials::check(launch.uid, launch.gid)?;
    namespaces::verify()?;
    namespaces::rename(NAME)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(Failure::at("keep mounts to itself"))?;
    let descriptors = own_descriptors().map_err(Failure::at("find its own descriptors"))?;
    change_root()?;
    fchdir(descriptors.as_fd()).map_err(Failure::at("go to its own descriptors"))?;
    drop(descriptors);
    let files = limit_descriptors(launch.files)?;
    limits()?;
    credentials::drop_all(launch.uid, launch.gid, KEPT)?;
    super::end_with_parent().map_err(Failure::at("end with the parent"))?;
    Ok(files)
}

/// `/proc/self/fd`, of a `/proc` that shows this process only, as a mount of its own from which
/// nothing leads further.
fn own_descriptors() -> Result<Tree, trefoil_os::Error> {
    let options = ["nosuid", "nodev", "noexec", "subset=pid"];
    let proc = detached::mount("proc", "proc", &options)?;
    // Before Linux 6.15 only what is mounted somewhere can be copied. It goes with the old root.
    proc.attach(Path::new(PLACE))?;
    Tree::copy(&Path::new(PLACE).join("self/fd"), Depth::One)
}

fn change_root() -> Result<(), Failure> {
    // What may be made there, the parent makes, by a mount of its own.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("none"),
        PLACE,
        Some("tmpfs"),
        flags,
        Some(ROOT_OPTIONS),
    )
    .map_err(Failure::at("mount a new root"))?;
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, PLACE, NONE, read_only, NONE).map_err(Failure::at("forbid changes of the root"))?;
    chdir(PLACE).map_err(Failure::at("go to the new root"))?;
    // The old root is put on top of the new one, from where it is taken off.
    pivot_root(".", ".").map_err(Failure::at("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Failure::at("leave the old root"))?;
    chdir("/").map_err(Failure::at("go to the new root"))
}

/// As many as it is to hold, or as many as it may have, if that is less. Says how many files that is.
fn limit_descriptors(files: u32) -> Result<u32, Failure> {
    let doing = "limit its own descriptors";
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Failure::at(doing))?;
    let wanted = files.saturating_add(OTHER_DESCRIPTORS);
    // To have more than the limit that it was started with needs a capability that it may not have
    // been given, and a system that allows for it.
    let allowed = match limit(Resource::RLIMIT_NOFILE, DESCRIPTORS, wanted.into()) {
        Ok(()) => wanted,
        Err(why) => match u32::try_from(most) {
            Ok(most) if most < wanted => most,
            _ => return Err(why),
        },
    };
    limit(Resource::RLIMIT_NOFILE, DESCRIPTORS, allowed.into())?;
    match allowed.checked_sub(OTHER_DESCRIPTORS) {
        Some(files @ 1..) => Ok(files),
        _ => Err(Failure::new(doing, format!("{allowed} are too few"))),
    }
}

fn limits() -> Result<(), Failure> {
    for (resource, name, most) in [
        (
            Resource::RLIMIT_NPROC,
            "threads",
            super::lead::THREADS as u64,
        ),
        (Resource::RLIMIT_STACK, "bytes of stack", 1 << 20),
        (Resource::RLIMIT_CORE, "bytes of core dump", 0),
        (Resource::RLIMIT_MEMLOCK, "bytes of locked memory", 0),
        (Resource::RLIMIT_MSGQUEUE, "bytes of messages", 0),
        (Resource::RLIMIT_RTPRIO, "priority", 0),
        (Resource::RLIMIT_NICE, "priority", 0),
    ] {
        limit(resource, name, most)?;
    }
    Ok(())
}
