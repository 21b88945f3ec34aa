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
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use trefoil_agent_common::share;
use trefoil_agent_protocol::{COPY_SOURCE, SHARE_SOURCE};
use trefoil_core::{Context, Error, Result};
use trefoil_os::detached::{self, Depth, Tree};
use trefoil_os::{apart, lock};

use crate::{mirror, names};

/// Where they are held.
const PLACE: &str = "/run/trefoil/volumes";

/// What a thread is called that may wait for a volume.
const THREAD: &str = "volumes";

/// A little more than the kernel believes what it was told of a file that the host may change.
const BELIEF: Duration = Duration::from_millis(1100);

/// How often a changed volume is looked at.
const TRIES: u32 = 3;

/// How a copy is mounted: with room for a version and the next.
const COPY_OPTIONS: [&str; 5] = ["nosuid", "nodev", "noexec", "size=17m", "nr_inodes=16k"];

/// What the host calls a volume: `name`, or `filesystem/name` of one that shares a filesystem with others.
/// With a mark if containers are to have a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    text: String,
    copied: bool,
}

impl Name {
    /// Checks it.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::InvalidArgument`] if it is none.
    pub(crate) fn new(name: &str, copied: bool) -> Result<Self> {
        let (filesystem, volume) = name.split_once('/').unzip();
        if let Some(filesystem) = filesystem {
            names::check("filesystem", filesystem)?;
        }
        names::check("share", volume.unwrap_or(name))?;
        Ok(Self {
            text: name.to_owned(),
            copied,
        })
    }

    /// The one that the source of a bind mount names.
    ///
    /// # Errors
    /// [`trefoil_core::ErrorKind::InvalidArgument`] if it is none.
    pub(crate) fn of_source(source: &str) -> Result<Self> {
        if let Some(name) = source.strip_prefix(SHARE_SOURCE) {
            return Self::new(name, false);
        }
        match source.strip_prefix(COPY_SOURCE) {
            Some(name) => Self::new(name, true),
            None => Err(Error::invalid(format!(
                "its source {source:?} is not shared with the guest"
            ))),
        }
    }

    /// Where it is held, if it is.
    pub(crate) fn place(&self) -> PathBuf {
        // No name has a colon.
        let kind = if self.copied { ":copy" } else { "" };
        Path::new(PLACE).join(self.text.replace('/', ":") + kind)
    }

    /// Where the host shows it.
    fn shared(&self) -> PathBuf {
        Path::new(share::PLACE).join(&self.text)
    }

    /// The name of what the kernel mounts.
    fn filesystem(&self) -> &str {
        self.text.split_once('/').map_or(&self.text, |(one, _)| one)
    }
}

/// Those that are held.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    held: Mutex<HashMap<Name, Arc<Mutex<State>>>>,
}

/// Of one of them; locked by who mounts or unmounts it.
#[derive(Debug, Default)]
struct State {
    /// For how many it is held.
    users: u32,
    /// What is held is a copy.
    copied: bool,
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
        let mut state = lock(&users);
        if state.users == 0 {
            match mount(name) {
                Ok(copied) => state.copied = copied,
                Err(why) => {
                    if let Err(and) = self.forget(name, &users) {
                        log::warn!("{and}");
                    }
                    return Err(why.context(format!("mount the volume {}", name.text)));
                }
            }
        }
        state.users += 1;
        Ok(())
    }

    /// Brings the copy of a volume that the host has changed. It need not be there any more.
    ///
    /// # Errors
    /// What is wrong with the volume, or what the kernel says.
    pub(crate) async fn refresh(self: &Arc<Self>, name: Name) -> Result<()> {
        let volumes = self.clone();
        apart(THREAD, move || volumes.refresh_one(&name)).await
    }

    fn refresh_one(&self, name: &Name) -> Result<()> {
        let Some(state) = lock(&self.held).get(name).cloned() else {
            return Ok(());
        };
        let state = lock(&state);
        if state.users == 0 || !state.copied {
            return Ok(());
        }
        let doing = || format!("copy the volume {}", name.text);
        let mut tries = TRIES;
        loop {
            let brought = mirror::bring(&name.shared(), &name.place());
            tries -= 1;
            match brought {
                Ok(true) => return Ok(()),
                Ok(false) if tries == 0 => return Ok(()),
                Err(why) if tries == 0 => return Err(why.context(doing())),
                // The kernel may still believe what it was told before, or the host is about to change it
                // once more.
                _ => std::thread::sleep(BELIEF),
            }
        }
    }

    fn leave(&self, name: &Name) -> Result<()> {
        let Some(users) = lock(&self.held).get(name).cloned() else {
            return Ok(());
        };
        let mut state = lock(&users);
        if state.users > 1 {
            state.users -= 1;
            return Ok(());
        }
        unmount(&name.place())?;
        state.users = 0;
        self.forget(name, &users)
    }

    /// Forgets one that nobody has. Its filesystem is unmounted if it was the last of that.
    fn forget(&self, name: &Name, users: &Arc<Mutex<State>>) -> Result<()> {
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

/// Mounts it in its place. Says whether that is a copy.
fn mount(name: &Name) -> Result<bool> {
    if name.copied {
        match mount_copy(name) {
            Ok(()) => return Ok(true),
            // Nobody hears of its changes then, but they are seen.
            Err(why) => log::warn!("{}", why.context(format!("copy the volume {}", name.text))),
        }
    }
    let tree = Tree::copy(&name.shared(), Depth::All)?;
    put(tree, &name.place())?;
    Ok(false)
}

fn mount_copy(name: &Name) -> Result<()> {
    let (volume, place) = (name.shared(), name.place());
    put(detached::mount("tmpfs", "copy", &COPY_OPTIONS)?, &place)?;
    let filled = mirror::own(&volume, &place).and_then(|()| mirror::bring(&volume, &place));
    if let Err(why) = filled {
        unmount(&place)?;
        return Err(why);
    }
    Ok(())
}

fn put(tree: Tree, place: &Path) -> Result<()> {
    let doing = || format!("make {}", place.display());
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(PLACE).context(doing)?;
    match tree.is_directory()? {
        true => builder.create(place).context(doing)?,
        false => drop(File::create(place).context(doing)?),
    }
    Ok(tree.attach(place)?)
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

/// Unmounts what is mounted at a place, if anything is. Who has it open keeps it.
///
/// # Errors
/// What the kernel says; it may be tried again.
pub(crate) fn detach(place: &Path) -> Result<()> {
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
        let place = |name: &str| Name::new(name, false).map(|name| name.place());
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
