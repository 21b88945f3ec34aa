//! The container's view of its cgroups: its own, and nothing wider.
//!
//! Where it has a cgroup namespace the kernel gives that view to a new mount. Elsewhere, and where the
//! kernel doesn't let us, the mount is a copy of the container's own directory.
//!
//! On cgroup v2 a container without a cgroup namespace sees the whole hierarchy, as with stock runtimes:
//! only those that are to manage others' cgroups (privileged pods) are given none, and the paths that
//! the kernel tells such a container are the host's.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use trefoil_os::detached::{Change, Depth, Filesystem, Tree};

use super::filesystem::New;
use super::options::{Attributes, Options};
use super::reason::{Outcome, Reason};
use trefoil_cgroups::Hierarchies;

/// What runc gives every mount of cgroup v1, whether asked or not.
const ALWAYS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Where the one hierarchy of cgroup v2 is.
const WHOLE: &str = "/sys/fs/cgroup";

/// A mount of type `cgroup` or `cgroup2`, with all that must be opened on the host.
#[derive(Debug)]
pub(super) enum Planned {
    /// A directory of hierarchies.
    V1(Vec<View>),
    /// The one hierarchy.
    V2 {
        /// Instead of a new mount; none is known for the second hierarchy of a hybrid.
        fallback: Option<Copy>,
    },
}

/// One hierarchy of cgroup v1.
#[derive(Debug)]
pub(super) struct View {
    name: String,
    /// What a new mount is told, if that shows the container's view.
    options: Option<Vec<String>>,
    fallback: Copy,
}

/// The container's directory on the host.
#[derive(Debug)]
pub(super) struct Copy {
    directory: PathBuf,
    /// Opened, where it can't be later.
    tree: Option<Tree>,
}

impl Copy {
    /// `early`: because a new mount never shows what it should, or because the container's root may not
    /// be able to pass there.
    fn new(directory: &Path, early: bool) -> Outcome<Self> {
        let tree = match early {
            true => Some(open(directory)?),
            false => None,
        };
        Ok(Self {
            directory: directory.to_owned(),
            tree,
        })
    }

    fn open(self) -> Outcome<Tree> {
        match self.tree {
            Some(tree) => Ok(tree),
            None => open(&self.directory),
        }
    }
}

fn open(directory: &Path) -> Outcome<Tree> {
    let tree = Tree::copy_at(CWD, directory, Depth::One)
        .map_err(|why| Reason::from(why).with(&directory.display().to_string()))?;
    tree.change(Change::propagation(libc::MS_PRIVATE), Depth::One)?;
    Ok(tree)
}

impl Planned {
    /// Works it out. `own` is whether the container has a cgroup namespace of its own, `user` whether it
    /// has a user namespace.
    pub(super) fn new(
        kind: &str,
        hierarchies: &Hierarchies,
        own: bool,
        user: bool,
    ) -> Outcome<Self> {
        let early = !own || user;
        match hierarchies {
            Hierarchies::V2(directory) => {
                let directory = if own { directory } else { Path::new(WHOLE) };
                Ok(Self::V2 {
                    fallback: Some(Copy::new(directory, user)?),
                })
            }
            Hierarchies::V1(_) if kind == "cgroup2" && !own => Err(Reason::new(
                "without a cgroup namespace it would show the host's cgroups",
            )),
            Hierarchies::V1(_) if kind == "cgroup2" => Ok(Self::V2 { fallback: None }),
            Hierarchies::V1(all) => all
                .iter()
                .map(|one| {
                    Ok(View {
                        name: one.name.clone(),
                        options: own.then(|| one.options.clone()),
                        fallback: Copy::new(&one.directory, early)?,
                    })
                })
                .collect::<Outcome<_>>()
                .map(Self::V1),
        }
    }
}

/// The mount of cgroup v2.
pub(super) fn unified(
    fallback: Option<Copy>,
    new: &New<'_>,
    attributes: Attributes,
) -> Outcome<Tree> {
    let refused = match new.make(None) {
        Err(why) if why.is_refusal() => why,
        outcome => return outcome,
    };
    let tree = fallback.ok_or(refused)?.open()?;
    tree.change(attributes.change(), Depth::One)?;
    Ok(tree)
}

/// The directory that the hierarchies of cgroup v1 are mounted in, mounted nowhere.
pub(super) fn shelf(label: Option<&str>) -> Outcome<Tree> {
    let mut options = Options {
        data: vec!["mode=755".to_owned()],
        ..Options::default()
    };
    options.attributes.set = ALWAYS;
    New::described("tmpfs", "tmpfs", &options, label).make(None)
}

/// Mounts each hierarchy on the shelf, which is attached already, and links the names of controllers that
/// share one.
pub(super) fn fill(shelf: &Tree, views: Vec<View>, attributes: Attributes) -> Outcome<()> {
    let attributes = Attributes {
        set: ALWAYS,
        ..Attributes::default()
    }
    .and(attributes);
    for view in views {
        let name = view.name.clone();
        view.mount(shelf, attributes)
            .map_err(|why| why.with(&name))?;
        if name.contains(',') {
            link_parts(shelf, &name)?;
        }
    }
    Ok(())
}

impl View {
    fn mount(self, shelf: &Tree, attributes: Attributes) -> Outcome<()> {
        let shelf = shelf.as_fd();
        mkdirat(shelf, &self.name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = openat(shelf, &self.name, flags, Mode::empty())?;
        let tree = match self
            .options
            .as_deref()
            .map(|told| hierarchy(told, attributes))
        {
            Some(Err(why)) if !why.is_refusal() => return Err(why),
            Some(Ok(tree)) => tree,
            _ => {
                let tree = self.fallback.open()?;
                tree.change(attributes.change(), Depth::One)?;
                tree
            }
        };
        tree.attach_at(place.as_fd())?;
        Ok(())
    }
}

/// A new mount of the hierarchy that has these controllers or this name.
fn hierarchy(told: &[String], attributes: Attributes) -> Outcome<Tree> {
    let new = Filesystem::open("cgroup")?;
    let tell = || {
        new.set("source", "cgroup")?;
        for option in told {
            match option.split_once('=') {
                Some((key, value)) => new.set(key, value)?,
                None => new.set_flag(option)?,
            }
        }
        new.create()?;
        new.mount(attributes.for_new())
    };
    tell().map_err(|why| Reason::told_by(&new, why))
}

fn link_parts(shelf: &Tree, name: &str) -> Outcome<()> {
    for part in name.split(',') {
        match symlinkat(name, shelf.as_fd(), part) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(why) => return Err(why.into()),
        }
    }
    Ok(())
}
