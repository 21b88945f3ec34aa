//! Containers' root filesystems: what the host shares, or what is on its disks.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use trefoil_agent_protocol::service::Rootfs;
use trefoil_core::{Context, Error, Result};
use trefoil_os::detached;

use crate::configuration;
use crate::disks::Driven;
use crate::volumes;

/// Where those on disks are mounted, each in a directory of its container's.
const ROOTS: &str = "/run/trefoil/roots";

/// A container's root.
pub(super) struct Root {
    path: PathBuf,
    /// Of one on disks; dropped after all is unmounted.
    made: Option<Made>,
}

/// What was made of disks.
struct Made {
    /// The directories, the outermost first.
    places: Vec<PathBuf>,
    /// Which of them are mounted at, in that order.
    mounts: Vec<PathBuf>,
    disks: Vec<Driven>,
}

impl Root {
    /// Makes the root that a request tells of, for the container of a checked name.
    ///
    /// # Errors
    /// What is wrong with the request, or what the kernel says; nothing is left then.
    pub(super) fn make(container: &str, rootfs: &Rootfs) -> Result<Self> {
        let (layers, writable) = (rootfs.layers.as_ref(), rootfs.writable.as_ref());
        if layers.is_none() && writable.is_none() {
            return Ok(Self {
                path: configuration::shared(&rootfs.share)?,
                made: None,
            });
        }
        if !rootfs.share.is_empty() {
            return Err(Error::invalid("a root is shared or on disks, and not both"));
        }
        let mut made = Made {
            places: Vec::new(),
            mounts: Vec::new(),
            disks: Vec::new(),
        };
        let path = made.make(&Path::new(ROOTS).join(container), rootfs);
        // What was made of it is undone by dropping.
        let path = path.map_err(|why| why.context(format!("make the root of {container}")))?;
        Ok(Self {
            path,
            made: Some(made),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it down, so that its disks can go: all that was written is on them then. It waits for a
    /// filesystem of the host's that hangs.
    ///
    /// # Errors
    /// What the kernel says; it may be tried again.
    pub(super) fn remove(&mut self) -> Result<()> {
        match &mut self.made {
            Some(made) => made.remove(),
            // The kernel has mounted it there when it was first walked to. While that is so it keeps in memory
            // what was read of it.
            None => volumes::detach(&self.path),
        }
    }
}

impl Made {
    /// Makes all of it; answers with where the root is.
    fn make(&mut self, directory: &Path, rootfs: &Rootfs) -> Result<PathBuf> {
        self.place(directory.to_owned())?;
        let mut lower = Vec::new();
        if let Some(disk) = rootfs.layers.as_ref() {
            let disk = Driven::find(disk, false)?;
            let count = disk.count();
            self.disks.push(disk);
            for number in 0..count {
                let place = directory.join(format!("layer{number}"));
                lower.push(self.mount(number, false, place)?);
            }
        }
        let mut written = None;
        if let Some(disk) = rootfs.writable.as_ref() {
            self.disks.push(Driven::find(disk, true)?);
            written = Some(self.mount(0, true, directory.join("written"))?);
        }
        match (lower.as_slice(), written) {
            ([only], None) => Ok(only.clone()),
            ([], Some(written)) => Ok(written),
            (_, written) => self.overlay(directory.join("root"), &lower, written.as_deref()),
        }
    }

    /// A new directory.
    fn place(&mut self, place: PathBuf) -> Result<()> {
        make_directory(&place, 0o700)?;
        self.places.push(place);
        Ok(())
    }

    /// Mounts a filesystem of the last disk.
    fn mount(&mut self, number: usize, writable: bool, place: PathBuf) -> Result<PathBuf> {
        self.place(place.clone())?;
        if let Some(disk) = self.disks.last() {
            disk.mount(number, writable, &place)?;
            self.mounts.push(place.clone());
        }
        Ok(place)
    }

    fn overlay(
        &mut self,
        place: PathBuf,
        lower: &[PathBuf],
        written: Option<&Path>,
    ) -> Result<PathBuf> {
        self.place(place.clone())?;
        let lower: Vec<_> = lower
            .iter()
            .map(|layer| layer.display().to_string())
            .collect();
        let mut options = vec![format!("lowerdir={}", lower.join(":"))];
        match written {
            Some(written) => {
                for name in ["upper", "work"] {
                    let directory = written.join(name);
                    make_directory(&directory, 0o755)?;
                    options.push(format!("{name}dir={}", directory.display()));
                }
            }
            None => options.push("ro".into()),
        }
        detached::mount("overlay", "overlay", &options)?.attach(&place)?;
        self.mounts.push(place.clone());
        Ok(place)
    }

    fn remove(&mut self) -> Result<()> {
        while let Some(place) = self.mounts.last() {
            match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(why) => return Err(why).context(|| format!("unmount {}", place.display())),
            }
            self.mounts.pop();
        }
        self.disks.clear();
        while let Some(place) = self.places.last() {
            match fs::remove_dir(place) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                    return Err(why).context(|| format!("remove {}", place.display()));
                }
                _ => drop(self.places.pop()),
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(why) = self.remove() {
            log::warn!("{why}");
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("make {}", path.display()))
}
