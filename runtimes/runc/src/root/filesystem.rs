//! New filesystems: described to the kernel step by step and mounted nowhere, or, where it can't be told
//! everything that way, by mount(2) upon an opened destination.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::mount::MountFlags;
use trefoil_os::detached::{Filesystem, Tree, layers_of};

use super::options::Options;
use super::reason::{Outcome, Reason};

/// The longest value that fsconfig(2) takes; mount(2) takes a page of them all.
const LONGEST_VALUE: usize = 255;

/// A filesystem to be made.
#[derive(Debug)]
pub(super) struct New<'a> {
    /// Its type, as `/proc/filesystems` has it.
    pub(super) kind: &'a str,
    /// What it is made of, or what `/proc/mounts` is to say there.
    pub(super) source: &'a str,
    /// Its data: `key`, `key=value`.
    pub(super) data: Vec<String>,
    /// Flags that every filesystem knows.
    pub(super) superblock: &'a [&'static str],
    /// Whether changes are counted.
    pub(super) count_versions: Option<bool>,
    /// Of `MOUNT_ATTR_*`, for the mount.
    pub(super) attributes: u64,
}

impl<'a> New<'a> {
    /// As a configuration describes it.
    pub(super) fn described(
        kind: &'a str,
        source: &'a str,
        options: &'a Options,
        label: Option<&str>,
    ) -> Self {
        let mut data: Vec<_> = options
            .data
            .iter()
            .flat_map(|option| one_by_one(option))
            .collect();
        if let Some(label) = label
            && takes_label(kind)
            && options.value("context").is_none()
        {
            data.push(format!("context={label}"));
        }
        Self {
            kind,
            source,
            data,
            superblock: &options.superblock,
            count_versions: options.count_versions,
            attributes: options.attributes.for_new(),
        }
    }

    /// Whether only mount(2) can be told all this: long values, and the flag that fsconfig(2) has no
    /// name for.
    pub(super) fn needs_old_call(&self) -> bool {
        let long = |text: &str| text.len() > LONGEST_VALUE;
        let value = |option: &String| match option.split_once('=') {
            // Told layer by layer.
            Some(("lowerdir", layers)) if self.kind == "overlay" && long(layers) => {
                layers_of(layers).map_or(true, |layers| layers.iter().any(|layer| long(layer)))
            }
            Some((_, value)) => long(value),
            None => long(option),
        };
        self.count_versions.is_some() || long(self.source) || self.data.iter().any(value)
    }

    /// Makes it in `context`, or in one opened for the namespaces of this process, and mounts it nowhere.
    pub(super) fn make(&self, context: Option<OwnedFd>) -> Outcome<Tree> {
        let new = match context {
            Some(context) => context.into(),
            None => Filesystem::open(self.kind).map_err(|why| self.unknown(why))?,
        };
        self.describe(&new)
            .and_then(|()| new.create())
            .and_then(|()| new.mount(self.attributes))
            .map_err(|why| Reason::told_by(&new, why))
    }

    fn describe(&self, new: &Filesystem) -> Result<(), Errno> {
        if !self.source.is_empty() {
            new.set("source", self.source)?;
        }
        for flag in self.superblock {
            new.set_flag(flag)?;
        }
        if self.is_read_only_below() {
            new.set_flag("ro")?;
        }
        self.tell_data(new)
    }

    /// Tells the filesystem's own options.
    pub(super) fn tell_data(&self, new: &Filesystem) -> Result<(), Errno> {
        for option in &self.data {
            match option.split_once('=') {
                Some(("lowerdir", layers))
                    if self.kind == "overlay" && layers.len() > LONGEST_VALUE =>
                {
                    for layer in layers_of(layers).map_err(|_| Errno::EINVAL)? {
                        new.set("lowerdir+", &layer)?;
                    }
                }
                Some((key, value)) => new.set(key, unquoted(key, value))?,
                None => new.set_flag(option)?,
            }
        }
        Ok(())
    }

    /// Whether not only the mount is read-only, but its filesystem: one on a device writes to it even
    /// when nobody asks, and there are devices that can't be written. All others may be shared with
    /// mounts that are to be written through.
    fn is_read_only_below(&self) -> bool {
        self.attributes & libc::MOUNT_ATTR_RDONLY != 0 && self.source.starts_with('/')
    }

    /// Makes it and mounts it upon `place` with mount(2), which is told the place by its descriptor.
    pub(super) fn mount_upon(&self, place: BorrowedFd<'_>) -> Outcome<()> {
        let data = CString::new(self.data.join(",")).map_err(|_| Errno::EINVAL)?;
        // The kernel cuts off what is longer.
        if data.as_bytes_with_nul().len() > 4096 {
            return Err(Reason::from(Errno::E2BIG).with("its options have more than 4095 bytes"));
        }
        let target = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = MountFlags::from_bits_retain(self.old_flags());
        rustix::mount::mount(self.source, target, self.kind, flags, data.as_c_str())
            .map_err(|why| self.unknown(Errno::from_raw(why.raw_os_error())))
    }

    /// Says of a kind that the kernel doesn't know which it is.
    fn unknown(&self, errno: Errno) -> Reason {
        match errno {
            Errno::ENODEV => {
                Reason::from(errno).with(&format!("this kernel has no filesystem {}", self.kind))
            }
            errno => errno.into(),
        }
    }

    /// The same flags as mount(2) knows them.
    fn old_flags(&self) -> u32 {
        let attributes = [
            (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
            (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
            (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
            (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
            (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
            (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
            (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
            // MS_NOSYMFOLLOW.
            (libc::MOUNT_ATTR_NOSYMFOLLOW, 256),
        ];
        let of_mount = attributes
            .iter()
            .filter(|(attribute, _)| self.attributes & attribute != 0)
            .fold(0, |all, (_, flag)| all | flag);
        let of_filesystem = self
            .superblock
            .iter()
            .fold(of_mount, |all, name| match *name {
                "sync" => all | libc::MS_SYNCHRONOUS,
                "dirsync" => all | libc::MS_DIRSYNC,
                "lazytime" => all | libc::MS_LAZYTIME,
                "mand" => all | libc::MS_MANDLOCK,
                "async" => all & !libc::MS_SYNCHRONOUS,
                "nolazytime" => all & !libc::MS_LAZYTIME,
                "nomand" => all & !libc::MS_MANDLOCK,
                _ => all,
            });
        let versions = match self.count_versions {
            Some(true) => libc::MS_I_VERSION,
            _ => 0,
        };
        // All of them are among the lower 32 bits.
        u32::try_from(of_filesystem | versions).unwrap_or_default()
    }
}

/// Options that came as one, taken apart where mount(2) would: at commas that are neither quoted, as in
/// labels, nor escaped, as in an overlay's layers.
fn one_by_one(option: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for letter in option.chars() {
        if letter == ',' && !quoted && !escaped {
            parts.push(String::new());
            continue;
        }
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// mount(2) wants labels quoted, for the commas in them; fsconfig(2) takes them as they are.
fn unquoted<'a>(key: &str, value: &'a str) -> &'a str {
    let bare = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match bare {
        Some(bare) if key.ends_with("context") => bare,
        _ => value,
    }
}

/// Whether files of such a filesystem get their label when it is mounted. Those of the kernel's have
/// labels of their own. As runc's.
fn takes_label(kind: &str) -> bool {
    !["proc", "sysfs", "mqueue", "cgroup", "cgroup2"].contains(&kind)
}

/// Labels the root of a filesystem that has labels for each file.
pub(super) fn label_root(tree: &Tree, label: &str) -> Outcome<()> {
    let path = format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd());
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), flags) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[&str]) -> Options {
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        Options::parse(&given).unwrap()
    }

    #[test]
    fn options_in_one_word_are_taken_apart() {
        let options = options(&["mode=755,size=1m", "context=\"a:b:c0,c1\""]);
        let new = New::described("tmpfs", "tmpfs", &options, None);
        assert_eq!(new.data, ["mode=755", "size=1m", "context=\"a:b:c0,c1\""]);
        assert_eq!(
            one_by_one(r#"lowerdir=/a\,b,x="c,d",,e\\,f"#),
            [r"lowerdir=/a\,b", r#"x="c,d""#, r"e\\", "f"]
        );
        assert_eq!(unquoted("context", "\"a:b:c0,c1\""), "a:b:c0,c1");
        assert_eq!(unquoted("source", "\"a\""), "\"a\"");
    }

    #[test]
    fn labels_are_for_those_that_have_none_of_their_own() {
        let none = options(&[]);
        let labelled = |kind| New::described(kind, "x", &none, Some("l")).data;
        assert_eq!(labelled("tmpfs"), ["context=l"]);
        assert!(labelled("proc").is_empty());
        assert!(labelled("mqueue").is_empty());
        let own = options(&["context=own"]);
        let new = New::described("tmpfs", "x", &own, Some("l"));
        assert_eq!(new.data, ["context=own"]);
    }

    #[test]
    fn long_values_go_to_the_old_call_unless_they_are_layers() {
        let needs = |kind: &str, option: String| {
            let options = options(&[&option]);
            New::described(kind, "x", &options, None).needs_old_call()
        };
        let long = "x".repeat(256);
        assert!(!needs("tmpfs", format!("a={}", "x".repeat(255))));
        assert!(needs("tmpfs", format!("a={long}")));
        assert!(needs("overlay", format!("lowerdir={long}")));
        let layers = vec!["/layer"; 100].join(":");
        assert!(!needs("overlay", format!("lowerdir={layers}")));
        assert!(needs("nfs", format!("lowerdir={layers}")));
    }

    #[test]
    fn flags_of_both_calls_are_the_same() {
        let options = options(&["ro", "nosuid", "noatime", "sync", "iversion"]);
        let new = New::described("tmpfs", "x", &options, None);
        let expected = libc::MS_RDONLY
            | libc::MS_NOSUID
            | libc::MS_NOATIME
            | libc::MS_SYNCHRONOUS
            | libc::MS_I_VERSION;
        assert_eq!(u64::from(new.old_flags()), expected);
        assert!(new.needs_old_call());
    }
}
