//! A mount namespace of our own, in which mounts have paths that nobody else sees.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::fchdir;
use trefoil_core::{Context, Result};
use trefoil_os::detached::Tree;

/// Being in a mount namespace of our own. It is a copy of the one before: what is mounted or unmounted
/// there shows here, but never the other way about. It ends with the last process in it; this one is
/// [back](Self::leave) where it was when this value goes.
#[derive(Debug)]
pub struct PrivateMounts {
    shelf: PathBuf,
    before: Option<PreviousNamespace>,
}

#[derive(Debug)]
struct PreviousNamespace {
    namespace: OwnedFd,
    directory: OwnedFd,
}

impl PrivateMounts {
    /// Moves the calling thread, the only one of its process, to a namespace where `shelf`, an empty
    /// directory, has become a place to put mounts.
    pub fn enter(shelf: &Path) -> Result<Self> {
        let doing = || "make a mount namespace";
        let before = PreviousNamespace {
            namespace: File::open("/proc/thread-self/ns/mnt")
                .context(doing)?
                .into(),
            directory: open(
                ".",
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .context(doing)?,
        };
        unshare(CloneFlags::CLONE_NEWNS).context(doing)?;
        // From here on, leaving is what dropping it does.
        let private = Self {
            shelf: shelf.to_owned(),
            before: Some(before),
        };
        let nothing = None::<&str>;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_SLAVE | MsFlags::MS_REC,
            nothing,
        )
        .context(|| "keep our mounts from the host")?;
        // Others may pass through, but not look around: a pod's root is such another.
        mount(
            Some("tmpfs"),
            shelf,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0711"),
        )
        .context(|| format!("mount a place for mounts at {}", shelf.display()))?;
        Ok(private)
    }

    /// Makes a directory on the shelf.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let place = self.shelf.join(name);
        fs::create_dir(&place).context(|| format!("make {}", place.display()))?;
        Ok(place)
    }

    /// Puts a mount on the shelf, and says where it is to be found.
    pub fn put(&self, tree: Tree, name: &str) -> Result<PathBuf> {
        let place = match tree.is_directory()? {
            true => self.directory(name)?,
            false => {
                let place = self.shelf.join(name);
                File::create(&place).context(|| format!("make {}", place.display()))?;
                place
            }
        };
        tree.attach(&place)?;
        Ok(place)
    }

    /// Goes back.
    pub fn leave(mut self) -> Result<()> {
        self.go_back()
    }

    fn go_back(&mut self) -> Result<()> {
        let Some(before) = self.before.take() else {
            return Ok(());
        };
        let doing = || "leave the mount namespace";
        setns(before.namespace.as_fd(), CloneFlags::CLONE_NEWNS).context(doing)?;
        fchdir(before.directory.as_fd()).context(doing)
    }
}

impl Drop for PrivateMounts {
    fn drop(&mut self) {
        if let Err(why) = self.go_back() {
            log::error!("{why}");
        }
    }
}
