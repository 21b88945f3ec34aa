//! Mounts that hang nowhere: copies of mounts and new ones, made and changed before anybody can see
//! them.

mod filesystem;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{Context, Error, Result};
pub use filesystem::{Filesystem, layers_of, mount};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// A mount, perhaps with those below it, that is not part of any directory tree. It goes when this
/// value does, unless it was [attached](Self::attach).
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// Whether the mounts below one are meant, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only the mount itself.
    One,
    /// And all below it.
    All,
}

impl Depth {
    fn flag(self) -> libc::c_uint {
        match self {
            Self::One => 0,
            Self::All => libc::AT_RECURSIVE.unsigned_abs(),
        }
    }
}

/// What is to become of a mount's attributes, of `MOUNT_ATTR_*`. Those that are named in neither field
/// stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The attributes to set.
    pub set: u64,
    /// The attributes to clear before.
    pub clear: u64,
    /// The kind of propagation to have from now on, of `MS_PRIVATE` and its like; 0 leaves it.
    pub propagation: u64,
}

impl Change {
    /// Adds attributes.
    #[must_use]
    pub fn adding(attributes: u64) -> Self {
        Self {
            set: attributes,
            // Of these there is always one, and the one before has to go.
            clear: match attributes & libc::MOUNT_ATTR__ATIME {
                0 => 0,
                _ => libc::MOUNT_ATTR__ATIME,
            },
            propagation: 0,
        }
    }

    /// Changes the propagation and nothing else.
    #[must_use]
    pub fn propagation(kind: u64) -> Self {
        Self {
            propagation: kind,
            ..Self::default()
        }
    }

    /// Makes the change to the mount whose root is `mount`, be it attached or not.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` if that is not the root of a mount, `EPERM` if what is to be cleared is
    /// locked by a more privileged user namespace.
    pub fn apply(&self, mount: BorrowedFd<'_>, depth: Depth) -> Result<(), Errno> {
        let attributes = libc::mount_attr {
            attr_set: self.set,
            attr_clr: self.clear,
            propagation: self.propagation,
            userns_fd: 0,
        };
        set(mount, &attributes, depth)
    }
}

impl Tree {
    /// A copy of what `path` shows.
    pub fn copy(path: &Path, depth: Depth) -> Result<Self> {
        Self::copy_at(CWD, path, depth).context(|| format!("open {} to mount it", path.display()))
    }

    /// A copy of what `path` shows, seen from `directory`; of `directory` itself, which need not be one,
    /// if `path` is empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copy_at(directory: BorrowedFd<'_>, path: &Path, depth: Depth) -> Result<Self, Errno> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if depth == Depth::All {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        if path.as_os_str().is_empty() {
            flags |= OpenTreeFlags::AT_EMPTY_PATH;
        }
        open_tree(directory, path, flags).map(Self).map_err(errno)
    }

    /// Shows other owners from now on, as `namespace` maps them. `what` is for the error.
    pub fn map_ids(&self, namespace: BorrowedFd<'_>, depth: Depth, what: &Path) -> Result<()> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
        };
        set(self.as_fd(), &attributes, depth).map_err(|errno| {
            let why = match errno {
                Errno::EINVAL => "its filesystem can't do that on this kernel".to_owned(),
                Errno::EPERM => {
                    "its ids are mapped already, or its filesystem is not the host's".to_owned()
                }
                Errno::ENOSYS => "this kernel can't do that".to_owned(),
                other => other.to_string(),
            };
            let why = std::io::Error::other(why);
            Error::new(format!("map the ids of {}", what.display()), why)
        })
    }

    /// Lets nobody write through this mount.
    pub fn make_read_only(&self) -> Result<()> {
        self.add_attributes(libc::MOUNT_ATTR_RDONLY, Depth::One)
    }

    /// Adds attributes, of `MOUNT_ATTR_*`.
    pub fn add_attributes(&self, attributes: u64, depth: Depth) -> Result<()> {
        self.change(Change::adding(attributes), depth)
            .context(|| "change a mount's attributes")
    }

    /// Lets everybody write through this mount who may.
    pub fn make_writable(&self) -> Result<()> {
        let change = Change {
            clear: libc::MOUNT_ATTR_RDONLY,
            ..Change::default()
        };
        self.change(change, Depth::One)
            .context(|| "make a mount writable")
    }

    /// Neither gets later mounts from where it was copied nor gives it its own.
    pub fn make_private(&self, depth: Depth) -> Result<()> {
        self.change(Change::propagation(libc::MS_PRIVATE), depth)
            .context(|| "keep a mount to ourselves")
    }

    /// Changes its attributes.
    ///
    /// # Errors
    /// The kernel's, see [`Change::apply`].
    pub fn change(&self, change: Change, depth: Depth) -> Result<(), Errno> {
        change.apply(self.as_fd(), depth)
    }

    /// Whether what it shows is a directory.
    pub fn is_directory(&self) -> Result<bool> {
        Ok(self.kind()? == SFlag::S_IFDIR)
    }

    /// Whether what it shows is a regular file.
    pub fn is_file(&self) -> Result<bool> {
        Ok(self.kind()? == SFlag::S_IFREG)
    }

    fn kind(&self) -> Result<SFlag> {
        let status = fstat(self.0.as_fd()).context(|| "look at a mount")?;
        Ok(SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT)
    }

    /// Its root, for calls that take a directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Its root. It lasts when it was attached, otherwise the mount is gone with it.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Mounts it at `place`.
    pub fn attach(self, place: &Path) -> Result<()> {
        move_mount(
            &self.0,
            "",
            CWD,
            place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(errno)
        .context(|| format!("attach a mount at {}", place.display()))
    }

    /// Mounts it upon what `place` is a descriptor of, however that may be called meanwhile.
    ///
    /// # Errors
    /// The kernel's; `ENOTDIR` if one of both is a directory and the other isn't.
    pub fn attach_at(&self, place: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        match move_mount(&self.0, "", place, "", flags).map_err(errno) {
            // What mount(2) has a word of its own for is one more invalid argument to this call.
            Err(Errno::EINVAL) if kind_of(place)? != kind_of(self.as_fd())? => Err(Errno::ENOTDIR),
            outcome => outcome,
        }
    }
}

/// Whether that is a directory.
fn kind_of(what: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(SFlag::from_bits_truncate(fstat(what)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn set(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, depth: Depth) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() | depth.flag();
    // SAFETY: both pointers are to values that live through the call, of which the kernel reads
    // as many bytes as it is told, and keeps nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// The same error, as the rest of this crate names it.
fn errno(why: rustix::io::Errno) -> Errno {
    Errno::from_raw(why.raw_os_error())
}
