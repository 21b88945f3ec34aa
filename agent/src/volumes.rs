//! The volumes of the pod's containers: each mounted once, for all that have it.
//!
//! What the host shares is one filesystem below [`share::PLACE`], in which a volume, or a directory that
//! stands for a filesystem of the host's, is mounted by the kernel when somebody walks there. Were that
//! done in each container's mount namespace, each would have a filesystem of its own, with caches, locks
//! and sockets that the others don't see. So the agent walks there, and holds what it finds as a mount of
//! its own that containers bind: a directory has but one name in a filesystem, and walking to it by
//! another takes it from there; a mount keeps it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use trefoil_agent_common::share;
use trefoil_core::detached::{Depth, Tree};
use trefoil_core::{Context, Result, apart};

use crate::containers::lock;
use crate::names;

/// Where they are held.
const PLACE: &str = "/run/trefoil/volumes";

/// What a thread is called that may wait for a volume.
const THREAD: &str = "volumes";

/// What the host calls a volume: `name`, or `filesystem/name` of one that shares a filesystem with others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(String);

impl Name {
    /// Checks it.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::InvalidArgument`] if it is none.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let (filesystem, volume) = name.split_once('/').unzip();
        if let Some(filesystem) = filesystem {
            names::check("filesystem", filesystem)?;
        }
        names::check("share", volume.unwrap_or(name))?;
        Ok(Self(name.to_owned()))
    }

    /// Where it is held, if it is.
    pub(crate) fn place(&self) -> PathBuf {
        // No name has a colon.
        Path::new(PLACE).join(self.0.replace('/', ":"))
    }

    /// The name of what the kernel mounts.
    fn filesystem(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(one, _)| one)
    }
}

/// Those that are held.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// For how many each is, locked by who mounts or unmounts it.
    held: Mutex<HashMap<Name, Arc<Mutex<u32>>>>,
}

/// Some that are held for a container.
#[derive(Debug)]
pub(crate) struct Held {
    volumes: Arc<Volumes>,
    names: Mutex<Vec<Name>>,
}

impl Volumes {
    /// Holds these. When this fails none of them is.
    ///
    /// # Errors
    /// What the kernel says, which may have to ask the host.
    pub(crate) async fn hold(self: &Arc<Self>, names: Vec<Name>) -> Result<Held> {
        let held = Held {
            volumes: self.clone(),
            names: Mutex::default(),
        };
        for name in names {
            let (volumes, wanted) = (self.clone(), name.clone());
            if let Err(why) = apart(THREAD, move || volumes.hold_one(&wanted)).await {
                if let Err(and) = held.release().await {
                    log::warn!("{and}");
                }
                return Err(why);
            }
            lock(&held.names).push(name);
        }
        Ok(held)
    }

    fn hold_one(&self, name: &Name) -> Result<()> {
        let users = lock(&self.held).entry(name.clone()).or_default().clone();
        let mut count = lock(&users);
        if *count == 0
            && let Err(why) = mount(name)
        {
            if let Err(and) = self.forget(name, &users) {
                log::warn!("{and}");
            }
            return Err(why.context(format!("mount the volume {}", name.0)));
        }
        *count += 1;
        Ok(())
    }

    fn leave(&self, name: &Name) -> Result<()> {
        let Some(users) = lock(&self.held).get(name).cloned() else {
            return Ok(());
        };
        let mut count = lock(&users);
        if *count > 1 {
            *count -= 1;
            return Ok(());
        }
        unmount(&name.place())?;
        *count = 0;
        self.forget(name, &users)
    }

    /// Forgets one that nobody has. Its filesystem is unmounted if it was the last of that.
    fn forget(&self, name: &Name, users: &Arc<Mutex<u32>>) -> Result<()> {
        let mut held = lock(&self.held);
        // Another may be about to hold it: it is to find the same count.
        if Arc::strong_count(users) == 2 {
            held.remove(name);
        }
        let filesystem = name.filesystem();
        if held.keys().any(|one| one.filesystem() == filesystem) {
            return Ok(());
        }
        detach(&Path::new(share::PLACE).join(filesystem))
    }
}

impl Held {
    /// Lets go of them; what nobody else has is unmounted.
    ///
    /// # Errors
    /// What the kernel says; it may be tried again.
    pub(crate) async fn release(&self) -> Result<()> {
        loop {
            let Some(name) = lock(&self.names).last().cloned() else {
                return Ok(());
            };
            let volumes = self.volumes.clone();
            apart(THREAD, move || volumes.leave(&name)).await?;
            lock(&self.names).pop();
        }
    }
}

fn mount(name: &Name) -> Result<()> {
    let tree = Tree::copy(&Path::new(share::PLACE).join(&name.0), Depth::All)?;
    let place = name.place();
    let doing = || format!("make {}", place.display());
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(PLACE).context(doing)?;
    match tree.is_directory()? {
        true => builder.create(&place).context(doing)?,
        false => drop(File::create(&place).context(doing)?),
    }
    tree.attach(&place)
}

fn unmount(place: &Path) -> Result<()> {
    detach(place)?;
    let removed = match fs::symlink_metadata(place).map(|found| found.is_dir()) {
        Ok(true) => fs::remove_dir(place),
        Ok(false) => fs::remove_file(place),
        Err(why) => Err(why),
    };
    match removed {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", place.display()))
        }
        _ => Ok(()),
    }
}

fn detach(place: &Path) -> Result<()> {
    match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(why) => Err(why).context(|| format!("unmount {}", place.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_at_most_two_parts_and_places_of_their_own() {
        let place = |name: &str| Name::new(name).map(|name| name.place());
        assert_eq!(
            place("filesystem.1/volume.2").expect("a name"),
            Path::new("/run/trefoil/volumes/filesystem.1:volume.2")
        );
        assert_eq!(
            place("volume.2").expect("a name"),
            Path::new("/run/trefoil/volumes/volume.2")
        );
        for wrong in [
            "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a:b", "a/b:c", "a\0",
        ] {
            place(wrong).expect_err(wrong);
        }
    }
}
