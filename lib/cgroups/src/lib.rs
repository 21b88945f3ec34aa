//! The cgroup of one container, on the host or in a guest: statistics, processes, limits, devices,
//! memory kills, removal.
//!
//! A new container's cgroup is made by [`Cgroup::create`], entered by [`Cgroup::add`], limited by
//! [`Cgroup::limit`] and, with a user namespace on v2, given away by [`Cgroup::delegate`], in this
//! order. It works on cgroup v1, on the hybrid of both (v1 as far as containers are concerned) and on
//! v2, and for v2 with systemd's units, which libcgroups makes. All else we do ourselves; what is
//! wrong with libcgroups' way is told in `docs/libcontainer.md`.
//!
//! A [`Cgroup`] holds paths and nothing else: it can be made before the cgroup exists, and again
//! after a restart. All functions are synchronous and quick. Those that wait for the kernel are
//! bounded, say so, and have a counterpart that tries once: `freeze` → `request_freeze` and
//! `is_frozen`, `remove` → `try_remove`.
//!
//! It never decides what a container may use, and never touches a cgroup other than its own and
//! those below.
//!
//! Start reading at [`layout`], which computes where the cgroup is.

mod create;
mod delegate;
mod devices;
mod error;
mod file;
mod hierarchies;
mod join;
mod layout;
mod limit;
mod oom;
mod parse;
mod plan;
mod processes;
mod remove;
mod stats;
#[cfg(test)]
mod tests;
mod tree;
mod update;

use std::path::{Path, PathBuf};

pub use error::{Error, Result};
pub use hierarchies::{Hierarchies, Hierarchy};
pub use join::{Origin, pass_grace_period};
use layout::{Controller, Layout};
pub use oom::OomWatch;

/// Which kind of hierarchy a container is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller; also the hybrid setup.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Whether containers are under cgroup v2 here. A machine whose cgroups can't be told is not.
pub fn is_v2() -> bool {
    matches!(
        libcgroups::common::get_cgroup_setup(),
        Ok(libcgroups::common::CgroupSetup::Unified)
    )
}

/// Whether the cgroup at this path is systemd's to make: if that was asked for, or the path has the form
/// `slice:prefix:name`, where systemd runs.
#[must_use]
pub fn is_systemd(cgroups_path: Option<&Path>, asked: bool) -> bool {
    asked || (cgroups_path.is_some_and(is_unit) && systemd_runs())
}

fn is_unit(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let mut parts = text.split(':');
    parts.next().is_some_and(|slice| slice.ends_with(".slice")) && parts.count() == 2
}

/// As sd_booted(3) tells it.
fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A container's cgroup. It need not exist.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    /// Its place below the mount point of each hierarchy.
    relative: PathBuf,
    /// The systemd unit that this is the cgroup of.
    unit: Option<String>,
    /// What libcgroups is told, to make it mean the same cgroup.
    spec_path: PathBuf,
    id: String,
}

impl Cgroup {
    /// Finds the cgroup of a container, from `linux.cgroupsPath` of its OCI spec.
    ///
    /// # Errors
    /// If the path leaves the hierarchy or is its root, has not the form that systemd needs, or if
    /// this machine has no cgroups.
    pub fn new(cgroups_path: Option<&Path>, container_id: &str, systemd: bool) -> Result<Self> {
        let (layout, place) = layout::find(cgroups_path, container_id, systemd)?;
        Ok(Self {
            layout,
            relative: place.relative,
            unit: place.unit,
            spec_path: layout::effective_path(cgroups_path, container_id),
            id: container_id.to_owned(),
        })
    }

    /// As [`Cgroup::new`], by systemd if that was asked for or the path has the form `slice:prefix:name` that
    /// systemd's have, where systemd runs.
    ///
    /// # Errors
    /// As [`Cgroup::new`].
    pub fn find(
        cgroups_path: Option<&Path>,
        container_id: &str,
        systemd_asked: bool,
    ) -> Result<Self> {
        let systemd = is_systemd(cgroups_path, systemd_asked);
        Self::new(cgroups_path, container_id, systemd)
    }

    /// Which kind of hierarchy it is under.
    #[must_use]
    pub fn version(&self) -> Version {
        match self.layout {
            Layout::V1(_) => Version::V1,
            Layout::V2(_) => Version::V2,
        }
    }

    /// Its directory; on v1 the one of the freezer, or of another controller if there is no
    /// freezer.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.layout {
            // `layout::find` gives at least one.
            Layout::V1(dirs) => dirs.first().map_or(Path::new(""), |(_, dir)| dir),
            Layout::V2(dir) => dir,
        }
    }

    /// The cgroup in each hierarchy that the container may see: what its `/sys/fs/cgroup` is made of.
    ///
    /// # Errors
    /// If the hierarchies of this machine can't be told.
    pub fn hierarchies(&self) -> Result<Hierarchies> {
        if let Layout::V2(directory) = &self.layout {
            return Ok(Hierarchies::V2(directory.clone()));
        }
        let hierarchies = hierarchies::mounted()?.into_iter().map(|mounted| {
            let name = mounted.point.file_name().unwrap_or_default();
            let name = name.to_str().ok_or_else(|| {
                error::no_hierarchy(format!("{} is not UTF-8", mounted.point.display()))
            })?;
            Ok(Hierarchy {
                name: name.to_owned(),
                options: mounted.options(),
                directory: mounted.point.join(&self.relative),
            })
        });
        hierarchies.collect::<Result<_>>().map(Hierarchies::V1)
    }

    /// Reads what the container has used. Controllers that are missing give absent values.
    ///
    /// # Errors
    /// If the cgroup does not exist or cannot be read.
    pub fn stats(&self) -> Result<trefoil_stats::Stats> {
        stats::read(&self.layout)
    }

    /// Reads what the cgroup above this one has used, and all below it. `None` if that is the hierarchy's
    /// root, which is the whole machine.
    ///
    /// # Errors
    /// As [`Cgroup::stats`].
    pub fn parent_stats(&self) -> Result<Option<trefoil_stats::Stats>> {
        match self.relative.parent() {
            Some(parent) if parent != Path::new("") => self
                .layout
                .parent()
                .map(|parent| stats::read(&parent))
                .transpose(),
            _ => Ok(None),
        }
    }

    /// The directories that its processes are in, one for each hierarchy. Of those without a
    /// controller only what is there: containers that an older version made aren't in them.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.members()
            .filter(|(controller, dir)| {
                !matches!(controller, Some(Controller::Other | Controller::Unified)) || dir.exists()
            })
            .map(|(_, dir)| dir.to_owned())
            .collect()
    }

    /// All its directories, each once.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        self.members().map(|(_, dir)| dir)
    }

    /// All its directories, each once, with a controller of its hierarchy where that is one of v1.
    fn members(&self) -> impl Iterator<Item = (Option<Controller>, &Path)> {
        let (v1, v2) = match &self.layout {
            Layout::V1(dirs) => (dirs.as_slice(), None),
            Layout::V2(dir) => ([].as_slice(), Some((None, dir.as_path()))),
        };
        // Controllers that are mounted together share a directory and are neighbours here or not.
        let first =
            |position: usize, dir: &PathBuf| !v1.iter().take(position).any(|(_, one)| one == dir);
        v1.iter()
            .enumerate()
            .filter(move |(position, (_, dir))| first(*position, dir))
            .map(|(_, (controller, dir))| (Some(*controller), dir.as_path()))
            .chain(v2)
    }

    /// Its directory under a v1 controller.
    fn v1(&self, wanted: Controller) -> Option<&Path> {
        match &self.layout {
            Layout::V1(dirs) => dirs
                .iter()
                .find_map(|(controller, dir)| (*controller == wanted).then_some(dir.as_path())),
            Layout::V2(_) => None,
        }
    }
}
