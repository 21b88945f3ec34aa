//! The server's jail.
//!
//! Whoever takes the server over has: the pod's trees, which its guest could change anyway, and no
//! other file, its root being a small directory that can't be written; the capabilities of
//! [`crate::capabilities`], good for those trees only; its descriptors; namespaces of its own with
//! nothing in them; and the system calls of [`super::filter`].

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::fchdir;
use trefoil_jail::root::PLACE;
use trefoil_jail::{Failure, Jail, Limit};
use trefoil_os::detached::{self, Depth, Tree};

use crate::capabilities::KEPT;
use crate::message::Launch;

/// What the process is called.
const NAME: &std::ffi::CStr = c"trefoil-files";

const NONE: Option<&str> = None;

/// Mount points, and the root itself: how many trees there can be.
const ROOT_OPTIONS: &str = "size=1m,nr_inodes=1024,mode=0755";

/// Descriptors beside the files that are held: sockets, kicks, memory, and what is opened for one
/// request.
const OTHER_DESCRIPTORS: u32 = 128;

/// Closes the jail around this process. What it leaves is a root with nothing in it, where the
/// parent puts the trees, and the process's own descriptors as its working directory. Says how many
/// files it may hold open.
pub fn enter(launch: &Launch) -> Result<u32, Failure> {
    let jail = Jail {
        name: NAME,
        uid: launch.uid,
        gid: launch.gid,
        capabilities: KEPT,
        threads: super::leadership::THREADS as u32,
        limits: &[],
    };
    let mut files = 0;
    trefoil_jail::enter(&jail, || {
        let descriptors = own_descriptors().map_err(Failure::at("find its own descriptors"))?;
        change_root()?;
        fchdir(descriptors.as_fd()).map_err(Failure::at("go to its own descriptors"))?;
        drop(descriptors);
        files = limit_descriptors(launch.files)?;
        Ok(())
    })?;
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
    trefoil_jail::root::enter()
}

/// As many as it is to hold, or as many as it may have, if that is less. Says how many files that is.
fn limit_descriptors(files: u32) -> Result<u32, Failure> {
    let doing = "limit its own descriptors";
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Failure::at(doing))?;
    let wanted = files.saturating_add(OTHER_DESCRIPTORS);
    // To have more than the limit that it was started with needs a capability that it may not have
    // been given, and a system that allows for it.
    let limit =
        |most: u32| Limit::new(Resource::RLIMIT_NOFILE, "open descriptors", most.into()).set();
    let allowed = match limit(wanted) {
        Ok(()) => wanted,
        Err(why) => match u32::try_from(most) {
            Ok(most) if most < wanted => most,
            _ => return Err(why),
        },
    };
    limit(allowed)?;
    match allowed.checked_sub(OTHER_DESCRIPTORS) {
        Some(files @ 1..) => Ok(files),
        _ => Err(Failure::new(doing, format!("{allowed} are too few"))),
    }
}
