//! A filesystem as mount(8) is told of it, mounted nowhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::{Depth, Tree, errno};
use crate::{Context, Error, Result};

/// Options that are the mount's, not the filesystem's, as mount(8) calls them.
const ATTRIBUTES: [(&str, u64); 8] = [
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// Options that say what is so anyway.
const PLAIN: [&str; 12] = [
    "rw", "suid", "dev", "exec", "relatime", "defaults", "private", "rprivate", "slave", "rslave",
    "shared", "rshared",
];

/// Makes the mount that a snapshotter describes, be it one of what is there or of a new filesystem, by its
/// type, its source and its options.
///
/// An overlay may have any number of layers: they are told to the kernel one by one (Linux 6.7).
///
/// # Errors
/// The kernel's, with what the filesystem says of it; [invalid](Error::is_invalid) if the layers are none.
pub fn mount(kind: &str, source: &str, options: &[impl AsRef<str>]) -> Result<Tree> {
    let doing = || format!("mount {kind} of {source}");
    let mut attributes = 0;
    let mut others = Vec::new();
    for option in options.iter().map(AsRef::as_ref) {
        match ATTRIBUTES.iter().find(|(name, _)| *name == option) {
            Some((_, attribute)) => attributes |= attribute,
            None if PLAIN.contains(&option) => {}
            None => others.push(option),
        }
    }
    let tree = match others
        .iter()
        .find(|option| ["bind", "rbind"].contains(option))
    {
        None if kind == "bind" => Tree::copy(Path::new(source), Depth::One),
        None => filesystem(
            kind,
            source,
            &others,
            attributes & libc::MOUNT_ATTR_RDONLY != 0,
        ),
        Some(&"bind") => Tree::copy(Path::new(source), Depth::One),
        Some(_) => Tree::copy(Path::new(source), Depth::All),
    };
    let tree = tree.map_err(|why| why.context(doing()))?;
    tree.add_attributes(attributes, Depth::One)
        .map_err(|why| why.context(doing()))?;
    Ok(tree)
}

fn filesystem(kind: &str, source: &str, options: &[&str], read_only: bool) -> Result<Tree> {
    let new = Filesystem::open(kind).context(|| format!("begin a filesystem of type {kind:?}"))?;
    if kind != "overlay" {
        set(&new, "source", source)?;
    }
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", layers)) if kind == "overlay" => {
                for layer in layers_of(layers)? {
                    set(&new, "lowerdir+", &layer)?;
                }
            }
            Some((key, value)) => set(&new, key, value)?,
            None => set_flag(&new, option)?,
        }
    }
    if read_only {
        set_flag(&new, "ro")?;
    }
    new.create()
        .map_err(|why| failed(&new, "make the filesystem", why))?;
    new.mount(0)
        .map_err(|why| failed(&new, "mount the filesystem", why))
}

fn set(new: &Filesystem, key: &str, value: &str) -> Result<()> {
    new.set(key, value)
        .map_err(|why| failed(new, &format!("set {key} to {value:?}"), why))
}

fn set_flag(new: &Filesystem, key: &str) -> Result<()> {
    new.set_flag(key)
        .map_err(|why| failed(new, &format!("set {key}"), why))
}

/// The kernel's error, with what the filesystem says of it.
fn failed(new: &Filesystem, doing: &str, why: Errno) -> Error {
    Error::new(doing, why).noting(new.said())
}

/// The layers of an overlay, the uppermost first. A colon that is part of a name has a backslash
/// before it. Data-only layers, which two colons begin, are nothing that a snapshotter makes.
///
/// # Errors
/// If one of them has no name.
pub fn layers_of(list: &str) -> Result<Vec<String>> {
    let mut layers = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        match (letter, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(layer)) => layer.extend(letters.next()),
            (_, Some(layer)) => layer.push(letter),
            (_, None) => {}
        }
    }
    match layers.iter().any(String::is_empty) {
        true => Err(Error::invalid(
            format!("take the layers {list:?} apart"),
            "one has no name",
        )),
        false => Ok(layers),
    }
}

/// A filesystem that is being described to the kernel, option by option.
///
/// Namespaces that it belongs to are those of the process that opened it, at that moment. All errors are
/// the kernel's; [`said`](Self::said) may know more.
#[derive(Debug)]
pub struct Filesystem(OwnedFd);

impl Filesystem {
    /// Begins one of a type that the kernel knows by that name.
    ///
    /// # Errors
    /// `ENODEV` if it knows none.
    pub fn open(kind: &str) -> Result<Self, Errno> {
        fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map(Self)
            .map_err(errno)
    }

    /// Sets an option that has a value, of at most 255 bytes.
    ///
    /// # Errors
    /// `EINVAL` mostly.
    pub fn set(&self, key: &str, value: &str) -> Result<(), Errno> {
        fsconfig_set_string(&self.0, key, value).map_err(errno)
    }

    /// Sets an option that has none.
    ///
    /// # Errors
    /// `EINVAL` mostly.
    pub fn set_flag(&self, key: &str) -> Result<(), Errno> {
        fsconfig_set_flag(&self.0, key).map_err(errno)
    }

    /// Makes it, as described.
    ///
    /// # Errors
    /// Anything that mount(2) fails with.
    pub fn create(&self) -> Result<(), Errno> {
        fsconfig_create(&self.0).map_err(errno)
    }

    /// Changes an existing one, that this value was [picked](Self::from) of, as described.
    ///
    /// # Errors
    /// Anything that mount(2) fails with.
    pub fn reconfigure(&self) -> Result<(), Errno> {
        fsconfig_reconfigure(&self.0).map_err(errno)
    }

    /// The mount of what was created, with attributes of `MOUNT_ATTR_*`.
    ///
    /// # Errors
    /// Anything that mount(2) fails with.
    pub fn mount(&self, attributes: u64) -> Result<Tree, Errno> {
        let attributes = u32::try_from(attributes).map_err(|_| Errno::EINVAL)?;
        fsmount(
            &self.0,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(attributes),
        )
        .map(Tree)
        .map_err(errno)
    }

    /// What the filesystem says of the last failure.
    #[must_use]
    pub fn said(&self) -> Option<String> {
        let mut said = [0; 512];
        let length = rustix::io::read(&self.0, &mut said).ok()?;
        let said = String::from_utf8_lossy(said.get(..length)?);
        // It begins with how bad it is.
        let (_, said) = said.trim_end().split_once(' ')?;
        Some(said.to_owned())
    }
}

impl From<OwnedFd> for Filesystem {
    /// One that was opened or picked elsewhere.
    fn from(context: OwnedFd) -> Self {
        Self(context)
    }
}

impl AsFd for Filesystem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_taken_apart() {
        assert_eq!(layers_of("/a:/b").expect("two"), ["/a", "/b"]);
        assert_eq!(layers_of(r"/a\:b:/c\\").expect("escaped"), ["/a:b", r"/c\"]);
        for wrong in ["", "/a:", "/a::/b"] {
            assert!(layers_of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_told() {
        let why = mount("tmpfs", "none", &["nonsense=1"])
            .expect_err("no such option")
            .to_string();
        assert!(
            why.starts_with("mount tmpfs of none: set nonsense to \"1\": invalid argument"),
            "{why}"
        );
        let tree = mount("tmpfs", "none", &["ro", "rw", "size=4k"]).expect("mount");
        assert!(tree.is_directory().expect("look"));
    }
}
