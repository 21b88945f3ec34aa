//! The container's root filesystem: the tree, its mounts, devices, masks, and making it the root.
//!
//! An image is its maker's, and so is every name in it. No path of the container's is ever resolved from
//! the host's root, and nothing is looked at by name to be used by name: [`path`] turns paths into
//! descriptors that can't be outside, and everything else works with these. What has to come from the
//! host is opened beforehand, by [`Plan::new`], with the host's rights.
//!
//! It knows nothing of how the container's processes are made, changes no namespace and runs no hook.

mod binds;
mod cgroups;
mod copy_up;
mod destination;
mod devices;
mod filesystem;
mod locked;
mod masks;
mod mounts;
pub(crate) mod options;
pub(crate) mod path;
mod pivot;
mod propagation;
mod reason;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountPropagationFlags, mount_change};
use trefoil_os::detached::{Change, Depth, Tree};

use self::binds::Binds;
use self::devices::{Dev, Devices};
use self::locked::Locked;
use self::mounts::{Host, Late, Planned, Stage};
use self::path::Confined;
use self::propagation::OfRoot;
use self::reason::{Outcome, Reason};
use crate::setup::error::Failure;
use trefoil_cgroups::Hierarchies;
use trefoil_os::rootless::in_user_namespace;

/// How often a mount is tried to be made read-only that a hook's process is still writing to, and how
/// long to wait in between.
const PATIENCE: (u32, std::time::Duration) = (5, std::time::Duration::from_millis(100));

/// What there is to work from.
pub(crate) struct Input<'a> {
    /// The container's configuration.
    pub(crate) spec: &'a Spec,
    /// The directory that relative sources of bind mounts are relative to; its path is absolute.
    pub(crate) bundle: &'a Path,
    /// The container's user namespace, if it has one of its own.
    pub(crate) user_namespace: Option<BorrowedFd<'a>>,
    /// The container's cgroups, which are there already.
    pub(crate) cgroups: &'a Hierarchies,
    /// Whether the container has a cgroup namespace of its own, whose root these are.
    pub(crate) own_cgroup_namespace: bool,
}

/// What is worked out with the host's rights and among its mounts, before anything is mounted.
#[derive(Debug)]
pub(crate) struct Plan {
    mounts: Vec<Planned>,
    devices: Devices,
    /// Whether links are to be made in `/dev`: not if all of it is brought by a mount.
    links: bool,
    label: Option<String>,
    propagation: OfRoot,
    read_only: bool,
    masked: Vec<PathBuf>,
    protected: Vec<PathBuf>,
}

/// The container's root, with all its mounts, before and after it has become the root.
#[derive(Debug)]
pub(crate) struct Root {
    tree: Confined,
    late: Vec<Late>,
    label: Option<String>,
    propagation: OfRoot,
    read_only: bool,
    masked: Vec<PathBuf>,
    protected: Vec<PathBuf>,
}

impl Plan {
    /// Reads the configuration and opens all of the host's that is needed. With a user namespace the
    /// calling process, which must be single-threaded, is in another mount namespace meanwhile.
    ///
    /// # Errors
    /// If something can't be as it is asked for, or a source isn't there.
    pub(crate) fn new(input: &Input<'_>) -> Result<Self, Failure> {
        let Some(user) = input.user_namespace else {
            return Self::opening(input, None);
        };
        // The kernel may not let the container make one. Among locked mounts it can't be copied without
        // those below it.
        let wants_sysfs = input.spec.mounts().iter().flatten().any(mounts::is_sysfs);
        let sysfs = match wants_sysfs {
            true => mounts::hosts_sysfs().ok(),
            false => None,
        };
        let locked = Locked::enter(user);
        let locked = locked.map_err(|why| why.failing("see the host's mounts as the container"))?;
        let plan = Self::opening(input, sysfs);
        let left = locked.leave();
        left.map_err(|why| why.failing("see the host's mounts as the host again"))?;
        plan
    }

    fn opening(input: &Input<'_>, sysfs: Option<Tree>) -> Result<Self, Failure> {
        let spec = input.spec;
        let linux = spec.linux().as_ref();
        let name = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
        let propagation = OfRoot::parse(name)?;
        let label = label(linux.and_then(|linux| linux.mount_label().as_deref()))?;
        let mut host = Host {
            binds: Binds::new(input.bundle, propagation, input.user_namespace),
            hierarchies: input.cgroups,
            own_cgroup_namespace: input.own_cgroup_namespace,
            user_namespace: input.user_namespace.is_some(),
            sysfs,
        };
        let mounts = spec.mounts().iter().flatten();
        let mounts: Vec<_> = mounts
            .map(|mount| Planned::new(mount, &mut host))
            .collect::<Result<_, _>>()?;
        let has_dev = mounts.iter().any(Planned::brings_devices);
        let paths = |given: Option<&[String]>| {
            let given = given.unwrap_or_default();
            given.iter().map(PathBuf::from).collect()
        };
        let read_only = spec.root().as_ref().and_then(|root| root.readonly());
        Ok(Self {
            devices: Devices::new(spec, host.user_namespace || in_user_namespace(), has_dev)?,
            mounts,
            links: !has_dev,
            label,
            propagation,
            read_only: read_only.unwrap_or_default(),
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_deref())),
            protected: paths(linux.and_then(|linux| linux.readonly_paths().as_deref())),
        })
    }

    /// Mounts everything. The calling process is in the container's namespaces, still has the host's root,
    /// and its current directory is the one that becomes the container's root: it was entered before the
    /// mount namespace was made, since the root of a user namespace may not be able to pass there.
    ///
    /// `proc` opens a filesystem context of proc for the container's process namespace: the kernel takes
    /// that of whoever opens it.
    ///
    /// # Errors
    /// If a step fails, named by what it was for.
    pub(crate) fn prepare(
        self,
        proc: &mut dyn FnMut() -> Result<OwnedFd, Failure>,
    ) -> Result<Root, Failure> {
        // Modes are exactly as asked.
        let mask = rustix::process::umask(Mode::empty());
        let root = self.prepare_unmasked(proc);
        rustix::process::umask(mask);
        root
    }

    fn prepare_unmasked(
        self,
        proc: &mut dyn FnMut() -> Result<OwnedFd, Failure>,
    ) -> Result<Root, Failure> {
        let tree =
            take_tree(self.propagation).map_err(|why| why.failing("mount the container's root"))?;
        let mut stage = Stage {
            root: &tree,
            label: self.label.as_deref(),
            proc,
            late: Vec::new(),
        };
        for mount in self.mounts {
            mount.perform(&mut stage)?;
        }
        let late = stage.late;
        let mut dev = Dev::default();
        self.devices.make(&tree, &mut dev)?;
        if self.links {
            devices::link(&tree, &mut dev)?;
        }
        Ok(Root {
            tree,
            late,
            label: self.label,
            propagation: self.propagation,
            read_only: self.read_only,
            masked: self.masked,
            protected: self.protected,
        })
    }
}

/// The label that files of new filesystems get; none where none is asked for.
fn label(asked: Option<&str>) -> Result<Option<String>, Failure> {
    match asked {
        None | Some("") => Ok(None),
        Some(label) if trefoil_os::selinux::is_enabled() => Ok(Some(label.to_owned())),
        Some(label) => Err(Failure::new(format!(
            "cannot apply SELinux mount label {label:?}: selinux is disabled or not supported"
        ))),
    }
}

/// Makes the current directory a mount of its own, that gets and passes on no other mounts than it should.
fn take_tree(propagation: OfRoot) -> Outcome<Confined> {
    let kind = match propagation.is_private() {
        true => MountPropagationFlags::PRIVATE,
        false => MountPropagationFlags::DOWNSTREAM,
    };
    mount_change("/", kind | MountPropagationFlags::REC)?;
    let tree = Tree::copy_at(CWD, Path::new("."), Depth::All)?;
    if let Some(first) = propagation.of_root_at_first() {
        first.apply(tree.as_fd())?;
    }
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, ".", flags)?;
    Ok(Confined::new(tree.into_fd()))
}

impl Root {
    /// The root's mount.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// Makes it the root and the current directory of this process.
    ///
    /// # Errors
    /// If the kernel refuses, or if it would leave the host's mounts in reach.
    pub(crate) fn pivot(&self, no_pivot_root: bool) -> Result<(), Failure> {
        if no_pivot_root && self.propagation.is_private() {
            return Err(Failure::new(
                "rootfsPropagation of [r]private is not safe without pivot_root",
            ));
        }
        let outcome = match no_pivot_root {
            true => pivot::move_over(self.as_fd()),
            false => pivot::pivot(self.as_fd()),
        };
        outcome.map_err(|why| why.failing("enter the container's root"))
    }

    /// Makes a directory where there is none, with those above it: an image need not have the working
    /// directory that it names. Links of procfs are not followed.
    ///
    /// # Errors
    /// If there is something else, or the kernel refuses.
    pub(crate) fn make_directory(&self, path: &Path) -> Result<(), Failure> {
        let made = self.tree.make(path, || Ok(path::Make::Directory));
        let failing =
            |why: Reason| why.failing(format_args!("make the working directory {path:?}"));
        let found = made.map_err(|why| failing(why.into()))?;
        match path::kind_of(found.fd.as_fd()).map_err(|why| failing(why.into()))? {
            FileType::Directory => Ok(()),
            _ => Err(failing(Errno::ENOTDIR.into())),
        }
    }

    /// Gives the root, and all mounts if so asked, the propagation that the configuration wants. To be
    /// called when it is the root: a shared one could not become it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn set_propagation(&self) -> Result<(), Failure> {
        let Some(last) = self.propagation.of_root_at_last() else {
            return Ok(());
        };
        last.apply(self.as_fd())
            .map_err(|why| Reason::from(why).failing("apply the root's mount propagation"))
    }

    /// Mounts a terminal at `/dev/console`. The terminal must be of the container's own devpts.
    ///
    /// # Errors
    /// If something is there that is no file, or the kernel refuses.
    pub(crate) fn attach_console(&self, peer: BorrowedFd<'_>) -> Result<(), Failure> {
        self.console(peer)
            .map_err(|why| why.failing("mount the terminal at /dev/console"))
    }

    fn console(&self, peer: BorrowedFd<'_>) -> Outcome<()> {
        let directory = self.tree.open(Path::new("dev"))?;
        match mknodat(
            &directory,
            "console",
            FileType::RegularFile,
            Mode::from_raw_mode(0o666),
            0,
        ) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(why) => return Err(why.into()),
        }
        let flags =
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let place = rustix::fs::openat(&directory, "console", flags, Mode::empty())?;
        if path::kind_of(place.as_fd())? == FileType::Symlink {
            return Err(Errno::ELOOP.into());
        }
        let tree = Tree::copy_at(peer, Path::new(""), Depth::One)?;
        Ok(tree.attach_at(place.as_fd())?)
    }

    /// Makes read-only what is to be, and hides what is to be hidden: the last step, when nothing is to be
    /// made in the root any more.
    ///
    /// # Errors
    /// If a step fails, named by what it was for.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        for late in &self.late {
            make_read_only(late.mount.as_fd())
                .map_err(|why| why.failing(format_args!("make {} read-only", late.shown)))?;
        }
        if self.read_only {
            make_read_only(self.as_fd()).map_err(|why| why.failing("make / read-only"))?;
        }
        masks::protect(&self.tree, &self.protected)?;
        masks::hide(&self.tree, &self.masked, self.label.as_deref())
    }
}

fn make_read_only(mount: BorrowedFd<'_>) -> Outcome<()> {
    let (mut tries, pause) = PATIENCE;
    loop {
        match Change::adding(libc::MOUNT_ATTR_RDONLY).apply(mount, Depth::One) {
            Err(Errno::EBUSY) if tries > 1 => tries -= 1,
            outcome => return Ok(outcome?),
        }
        std::thread::sleep(pause);
    }
}
