//! Where trees are put: the root of the server's mount namespace.
//!
//! The calls here change the namespace of the thread that makes them, which ends soon.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use trefoil_core::{Context, Result};
use trefoil_os::detached::{Depth, Tree};

/// The server's mount namespace.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// That of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/mnt");
        let namespace = File::open(&path).context(|| format!("open {path}"))?;
        Ok(Self(namespace.into()))
    }

    fn enter(&self) -> Result<()> {
        const DOING: &str = "enter the file server's mount namespace";
        // Only who shares root and working directory with nobody may.
        unshare(CloneFlags::CLONE_FS).context(|| DOING)?;
        setns(&self.0, CloneFlags::CLONE_NEWNS).context(|| DOING)
    }

    /// Puts a mount into the root.
    pub fn put(&self, mount: Tree, name: &str) -> Result<()> {
        self.enter()?;
        let root = root()?;
        let making = || format!("make a place for {name}");
        let mode = Mode::S_IRUSR;
        if let Some((filesystem, _)) = name.split_once('/') {
            match mkdirat(root.as_fd(), filesystem, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(why) => return Err(why).context(making),
            }
        }
        match mount.is_directory()? {
            true => mkdirat(root.as_fd(), name, mode).context(making)?,
            false => mknodat(root.as_fd(), name, SFlag::S_IFREG, mode, 0).context(making)?,
        }
        let outcome = mount.attach(&Path::new("/").join(name));
        if outcome.is_err() {
            // What went wrong before is to be told.
            let _ = remove_point(&root, name);
        }
        Ok(outcome?)
    }

    /// Takes a mount out of the root. It is no error if it, or its place, is gone already.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.enter()?;
        let place = Path::new("/").join(name);
        match umount2(&place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(why) => return Err(why).context(|| format!("unmount {name}")),
        }
        remove_point(&root()?, name).context(|| format!("remove the place of {name}"))
    }
}

/// The root, as it can be written to: the server's own mount of it can't.
fn root() -> Result<Tree> {
    let root = Tree::copy(Path::new("/"), Depth::One)?;
    root.make_writable()?;
    Ok(root)
}

fn remove_point(root: &Tree, name: &str) -> nix::Result<()> {
    let remove = |how| match unlinkat(root.as_fd(), name, how) {
        Err(Errno::ENOENT) => Ok(()),
        outcome => outcome,
    };
    match remove(UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => remove(UnlinkatFlags::RemoveDir)?,
        outcome => outcome?,
    }
    let Some((filesystem, _)) = name.split_once('/') else {
        return Ok(());
    };
    match unlinkat(root.as_fd(), filesystem, UnlinkatFlags::RemoveDir) {
        // It has other trees, or is gone already.
        Err(Errno::ENOTEMPTY | Errno::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
