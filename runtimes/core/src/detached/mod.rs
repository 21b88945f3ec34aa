//! Mounts that hang nowhere: copies of mounts and new ones, made and changed before anybody can see
//! them.

mod filesystem;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Context, Error, Result};
pub use filesystem::mount;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

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

impl Tree {
    /// A copy of what `path` shows.
    pub fn copy(path: &Path, depth: Depth) -> Result<Self> {
        let doing = || format!("open {} to mount it", path.display());
        let name = CString::new(path.as_os_str().as_bytes()).context(doing)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | depth.flag();
        // SAFETY: the kernel reads the string, which lives through the call, and keeps nothing of it.
        let fd =
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
        owned(fd).map(Self).context(doing)
    }

    /// Shows other owners from now on, as `namespace` maps them. `what` is for the error.
    pub fn map_ids(&self, namespace: BorrowedFd<'_>, depth: Depth, what: &Path) -> Result<()> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
        };
        self.set(&attributes, depth).map_err(|errno| {
            let why = match errno {
                Errno::EINVAL => "its filesystem can't do that on this kernel".to_owned(),
                Errno::EPERM => {
                    "its ids are mapped already, or its filesystem is not the host's".to_owned()
                }
                Errno::ENOSYS => "this kernel can't do that".to_owned(),
                other => other.to_string(),
            };
            Error::internal(format!("map the ids of {}: {why}", what.display()))
        })
    }

    /// Lets nobody write through this mount.
    pub fn make_read_only(&self) -> Result<()> {
        self.add_attributes(libc::MOUNT_ATTR_RDONLY, Depth::One)
    }

    /// Adds attributes, of `MOUNT_ATTR_*`.
    pub fn add_attributes(&self, attributes: u64, depth: Depth) -> Result<()> {
        let attributes = libc::mount_attr {
            attr_set: attributes,
            // Of these there is always one, and the one before has to go.
            attr_clr: match attributes & libc::MOUNT_ATTR__ATIME {
                0 => 0,
                _ => libc::MOUNT_ATTR__ATIME,
            },
            propagation: 0,
            userns_fd: 0,
        };
        self.set(&attributes, depth)
            .context(|| "change a mount's attributes")
    }

    /// Lets everybody write through this mount who may.
    pub fn make_writable(&self) -> Result<()> {
        let attributes = libc::mount_attr {
            attr_set: 0,
            attr_clr: libc::MOUNT_ATTR_RDONLY,
            propagation: 0,
            userns_fd: 0,
        };
        self.set(&attributes, Depth::One)
            .context(|| "make a mount writable")
    }

    /// Neither gets later mounts from where it was copied nor gives it its own.
    pub fn make_private(&self, depth: Depth) -> Result<()> {
        let attributes = libc::mount_attr {
            attr_set: 0,
            attr_clr: 0,
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        self.set(&attributes, depth)
            .context(|| "keep a mount to ourselves")
    }

    fn set(&self, attributes: &libc::mount_attr, depth: Depth) -> Result<(), Errno> {
        let flags = libc::AT_EMPTY_PATH.unsigned_abs() | depth.flag();
        // SAFETY: both pointers are to values that live through the call, of which the kernel reads
        // as many bytes as it is told, and keeps nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                std::ptr::from_ref(attributes),
                size_of::<libc::mount_attr>(),
            )
        };
        Errno::result(result).map(drop)
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

    /// Mounts it at `place`.
    pub fn attach(self, place: &Path) -> Result<()> {
        let doing = || format!("attach a mount at {}", place.display());
        let name = CString::new(place.as_os_str().as_bytes()).context(doing)?;
        let empty: &CStr = c"";
        // SAFETY: the kernel reads the two strings, which live through the call, and keeps neither.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                empty.as_ptr(),
                libc::AT_FDCWD,
                name.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(result).map(drop).context(doing)
    }
}

/// The descriptor that a call has made.
fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
