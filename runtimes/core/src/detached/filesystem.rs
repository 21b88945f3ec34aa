//! A filesystem as mount(8) is told of it, mounted nowhere.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::{Depth, Tree, owned};
use crate::{Context, Error, Mount, Result};

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

/// Makes the mount that a snapshotter describes, be it one of what is there or of a new filesystem.
/// Its target is the caller's affair.
///
/// An overlay may have any number of layers: they are told to the kernel one by one (Linux 6.7).
pub fn mount(mount: &Mount) -> Result<Tree> {
    let doing = || format!("mount {} of {}", mount.kind, mount.source);
    let mut attributes = 0;
    let mut others = Vec::new();
    for option in &mount.options {
        match ATTRIBUTES.iter().find(|(name, _)| name == option) {
            Some((_, attribute)) => attributes |= attribute,
            None if PLAIN.contains(&option.as_str()) => {}
            None => others.push(option.as_str()),
        }
    }
    let tree = match others
        .iter()
        .find(|option| ["bind", "rbind"].contains(option))
    {
        None if mount.kind == "bind" => Tree::copy(Path::new(&mount.source), Depth::One),
        None => filesystem(mount, &others, attributes & libc::MOUNT_ATTR_RDONLY != 0),
        Some(&"bind") => Tree::copy(Path::new(&mount.source), Depth::One),
        Some(_) => Tree::copy(Path::new(&mount.source), Depth::All),
    };
    let tree = tree.map_err(|why| why.context(doing()))?;
    tree.add_attributes(attributes, Depth::One)
        .map_err(|why| why.context(doing()))?;
    Ok(tree)
}

fn filesystem(mount: &Mount, options: &[&str], read_only: bool) -> Result<Tree> {
    let new = New::open(&mount.kind)?;
    if mount.kind != "overlay" {
        new.set("source", &mount.source)?;
    }
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", layers)) if mount.kind == "overlay" => {
                for layer in layers_of(layers)? {
                    new.set("lowerdir+", &layer)?;
                }
            }
            Some((key, value)) => new.set(key, value)?,
            None => new.set_flag(option)?,
        }
    }
    if read_only {
        new.set_flag("ro")?;
    }
    new.mount()
}

/// The layers of an overlay, the uppermost first. A colon that is part of a name has a backslash
/// before it. Data-only layers, which two colons begin, are nothing that a snapshotter makes.
fn layers_of(list: &str) -> Result<Vec<String>> {
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
        true => Err(Error::invalid(format!(
            "the layers {list:?} have one without a name"
        ))),
        false => Ok(layers),
    }
}

/// A filesystem that is being described to the kernel.
struct New(OwnedFd);

impl New {
    fn open(kind: &str) -> Result<Self> {
        let doing = || format!("begin a filesystem of type {kind:?}");
        let name = CString::new(kind).context(doing)?;
        // SAFETY: the kernel reads the string, which lives through the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) };
        Ok(Self(owned(fd).context(doing)?))
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let text = CString::new(value).context(|| format!("set {key} to {value:?}"))?;
        self.configure(libc::FSCONFIG_SET_STRING, Some(key), Some(&text))
            .map_err(|why| self.failed(&format!("set {key} to {value:?}"), why))
    }

    fn set_flag(&self, key: &str) -> Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(key), None)
            .map_err(|why| self.failed(&format!("set {key}"), why))
    }

    fn mount(self) -> Result<Tree> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None)
            .map_err(|why| self.failed("make the filesystem", why))?;
        // SAFETY: the call takes numbers.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                0,
            )
        };
        owned(fd)
            .map(Tree)
            .map_err(|why| self.failed("mount the filesystem", why))
    }

    fn configure(
        &self,
        command: libc::fsconfig_command,
        key: Option<&str>,
        value: Option<&CString>,
    ) -> Result<(), Errno> {
        let key = key
            .map(CString::new)
            .transpose()
            .map_err(|_| Errno::EINVAL)?;
        let start = |text: Option<&CString>| text.map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: the pointers are null or to texts that end with zero and live through the call.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                start(key.as_ref()),
                start(value),
                0,
            )
        };
        Errno::result(outcome).map(drop)
    }

    /// The kernel's error, with what the filesystem says of it.
    fn failed(&self, doing: &str, why: Errno) -> Error {
        let mut said = [0; 512];
        let length = self
            .0
            .try_clone()
            .and_then(|context| File::from(context).read(&mut said))
            .unwrap_or(0);
        let said = String::from_utf8_lossy(said.get(..length).unwrap_or_default());
        match said.trim_end().split_once(' ') {
            // It begins with how bad it is.
            Some((_, said)) => Error::internal(format!("{doing}: {why} ({said})")),
            None => Error::internal(format!("{doing}: {why}")),
        }
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
        let mut given = Mount {
            kind: "tmpfs".into(),
            source: "none".into(),
            target: String::new(),
            options: vec!["nonsense=1".into()],
        };
        let why = mount(&given).expect_err("no such option").to_string();
        assert!(
            why.starts_with("mount tmpfs of none: set nonsense to \"1\": EINVAL"),
            "{why}"
        );
        given.options = vec!["ro".into(), "rw".into(), "size=4k".into()];
        assert!(mount(&given).expect("mount").is_directory().expect("look"));
    }
}
