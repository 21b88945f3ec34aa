//! Copies of small volumes that the host changes as a whole: ConfigMaps, Secrets and the like.
//!
//! Programs watch them (inotify), and the guest's kernel can't tell them of what the host does. So
//! containers have a copy in the guest's memory, which is changed in the steps in which kubelet changes the
//! volume. Its layout (kubernetes/pkg/volume/util/atomic_writer.go): a directory of a time stamp's name
//! with the files, the link `..data` to it, and a link `name -> ..data/name` for each file; a new version
//! is a new directory, and a new `..data` renamed over the old one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use trefoil_core::{Context, Error, Result};

/// The link to the files of now.
const DATA: &str = "..data";
/// What kubelet calls the next one before it is in its place.
const NEXT: &str = "..data_tmp";

/// No volume has more, in bytes: kubelet's are of at most 1 MiB for each object, and most are of one.
const MOST_BYTES: u64 = 8 << 20;
/// No volume has more files and directories.
const MOST_FILES: usize = 4096;
/// No file is deeper.
const MOST_DEPTH: usize = 16;

/// Makes `copy` what `volume` is. Says whether that changed what the files are.
///
/// # Errors
/// What is wrong with the volume's layout, or what the kernel says. The copy is as it was, or as the volume
/// is; something else may be beside it, which the next time takes away.
pub(crate) fn bring(volume: &Path, copy: &Path) -> Result<bool> {
    let target = version(volume)?;
    let changed = version(copy).ok().as_deref() != Some(target.as_path());
    if changed {
        let place = copy.join(&target);
        remove(&place)?;
        let mut room = CopyBudget {
            bytes: MOST_BYTES,
            files: MOST_FILES,
        };
        let copied = room.copy_directory(&volume.join(&target), &place, MOST_DEPTH);
        if let Err(why) = copied {
            remove(&place)?;
            return Err(why);
        }
        replace(&target, &copy.join(DATA), &copy.join(NEXT))?;
    }
    bring_links(volume, copy)?;
    for name in names(copy)? {
        if is_internal(&name) && name != DATA && Path::new(&name) != target {
            remove(&copy.join(name))?;
        }
    }
    Ok(changed)
}

/// The directory that the files of now are in: one name.
fn version(volume: &Path) -> Result<PathBuf> {
    let link = volume.join(DATA);
    let target = fs::read_link(&link).context(|| format!("read the link {}", link.display()))?;
    let mut parts = target.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name != DATA && name != NEXT => Ok(name.into()),
        _ => Err(Error::invalid(format!(
            "{} leads to {}, which is no name of a directory beside it",
            link.display(),
            target.display()
        ))),
    }
}

/// Those names are kubelet's own, and no file's of the volume.
fn is_internal(name: &OsString) -> bool {
    name.as_bytes().starts_with(b"..")
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    let doing = || format!("list {}", directory.display());
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).context(doing)? {
        names.insert(entry.context(doing)?.file_name());
        if names.len() > MOST_FILES {
            return Err(Error::invalid(format!(
                "{}: it has too many names",
                doing()
            )));
        }
    }
    Ok(names)
}

/// Brings the links by which the files are known.
fn bring_links(volume: &Path, copy: &Path) -> Result<()> {
    let wanted = names(volume)?;
    for name in names(copy)? {
        if !is_internal(&name) && !wanted.contains(&name) {
            remove(&copy.join(name))?;
        }
    }
    for name in wanted.iter().filter(|name| !is_internal(name)) {
        let from = volume.join(name);
        let target =
            fs::read_link(&from).context(|| format!("read the link {}", from.display()))?;
        let place = copy.join(name);
        if fs::read_link(&place).ok().as_ref() != Some(&target) {
            replace(&target, &place, &copy.join(NEXT))?;
        }
    }
    Ok(())
}

/// Makes a link, in one step in place of what is there.
pub(crate) fn replace(target: &Path, place: &Path, meanwhile: &Path) -> Result<()> {
    remove(meanwhile)?;
    symlink(target, meanwhile)
        .and_then(|()| fs::rename(meanwhile, place))
        .context(|| format!("make the link {}", place.display()))
}

/// Removes a file or a directory with all that is in it, if it is there. A link is removed itself.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(why) => Err(why),
    };
    match removed {
        Err(why) if why.kind() != ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What may still be copied.
struct CopyBudget {
    bytes: u64,
    files: usize,
}

impl CopyBudget {
    fn copy_directory(&mut self, from: &Path, to: &Path, depth: usize) -> Result<()> {
        let doing = || format!("copy {}", from.display());
        let depth = depth.checked_sub(1).ok_or_else(too_large)?;
        let found = fs::symlink_metadata(from).context(doing)?;
        if !found.is_dir() {
            return Err(Error::invalid(format!("{}: it is no directory", doing())));
        }
        DirBuilder::new().mode(0o700).create(to).context(doing)?;
        for name in names(from)? {
            self.files = self.files.checked_sub(1).ok_or_else(too_large)?;
            let (from, to) = (from.join(&name), to.join(&name));
            let doing = || format!("copy {}", from.display());
            let kind = fs::symlink_metadata(&from).context(doing)?.file_type();
            if kind.is_dir() {
                self.copy_directory(&from, &to, depth)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&from).context(doing)?;
                symlink(target, &to).context(doing)?;
            } else if kind.is_file() {
                self.copy_file(&from, &to)?;
            } else {
                return Err(Error::invalid(format!("{}: it is no file", doing())));
            }
        }
        take_over(to, &found).context(doing)
    }

    fn copy_file(&mut self, from: &Path, to: &Path) -> Result<()> {
        let doing = || format!("copy {}", from.display());
        // It may be something else by now: then it is not followed, and not waited for.
        let mut options = File::options();
        options.read(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(from).context(doing)?;
        let found = file.metadata().context(doing)?;
        let mut content = Vec::new();
        let mut limited = file.take(self.bytes + 1);
        limited.read_to_end(&mut content).context(doing)?;
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.checked_sub(length).ok_or_else(too_large)?;
        let mut options = File::options();
        let mut copy = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)
            .context(doing)?;
        copy.write_all(&content).context(doing)?;
        take_over(to, &found).context(doing)
    }
}

fn too_large() -> Error {
    Error::invalid("the volume is too large to be copied")
}

/// Gives the directory of a copy its owner and its mode.
///
/// # Errors
/// What the kernel says.
pub(crate) fn own(volume: &Path, copy: &Path) -> Result<()> {
    let doing = || format!("copy {}", volume.display());
    let found = fs::symlink_metadata(volume).context(doing)?;
    take_over(copy, &found).context(doing)
}

fn take_over(copy: &Path, found: &Metadata) -> std::io::Result<()> {
    std::os::unix::fs::chown(copy, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(copy, fs::Permissions::from_mode(found.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubelet makes it.
    struct Volume(tempfile::TempDir);

    impl Volume {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("directory"))
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn write(&self, version: &str, files: &[(&str, &str)]) {
            let old = fs::read_link(self.path().join(DATA)).ok();
            let place = self.path().join(version);
            for (name, content) in files {
                let file = place.join(name);
                fs::create_dir_all(file.parent().expect("parent")).expect("directory");
                fs::write(file, content).expect("write");
            }
            replace(
                version.as_ref(),
                &self.path().join(DATA),
                &self.path().join(NEXT),
            )
            .expect("swap");
            for (name, _) in files {
                let first = name.split('/').next().expect("first");
                let link = self.path().join(first);
                if fs::symlink_metadata(&link).is_err() {
                    symlink(Path::new(DATA).join(first), link).expect("link");
                }
            }
            if let Some(old) = old {
                remove(&self.path().join(old)).expect("old");
            }
        }
    }

    fn read(copy: &Path, name: &str) -> Option<String> {
        fs::read_to_string(copy.join(name)).ok()
    }

    #[test]
    fn a_copy_becomes_what_the_volume_is() {
        let (volume, copy) = (Volume::new(), tempfile::tempdir().expect("copy"));
        volume.write("..1", &[("key", "one"), ("a/b", "deep")]);
        assert!(bring(volume.path(), copy.path()).expect("first"));
        assert!(!bring(volume.path(), copy.path()).expect("again"));
        assert_eq!(read(copy.path(), "key").as_deref(), Some("one"));
        assert_eq!(read(copy.path(), "a/b").as_deref(), Some("deep"));
        let file = fs::metadata(volume.path().join("key")).expect("file");
        let copied = fs::metadata(copy.path().join("key")).expect("copy");
        assert_eq!(copied.mode(), file.mode());
        volume.write("..2", &[("key", "two"), ("other", "")]);
        fs::remove_file(volume.path().join("a")).expect("a");
        assert!(bring(volume.path(), copy.path()).expect("second"));
        assert_eq!(read(copy.path(), "key").as_deref(), Some("two"));
        assert_eq!(read(copy.path(), "other").as_deref(), Some(""));
        let left: Vec<_> = names(copy.path()).expect("names").into_iter().collect();
        assert_eq!(left, ["..2", "..data", "key", "other"]);
    }

    #[test]
    fn a_volume_that_is_none_of_kubelets_is_not_copied() {
        let (volume, copy) = (Volume::new(), tempfile::tempdir().expect("copy"));
        bring(volume.path(), copy.path()).expect_err("nothing");
        for target in ["/etc", "../x", "a/b", ".", "..", "..data"] {
            let link = volume.path().join(DATA);
            symlink(target, &link).expect("link");
            bring(volume.path(), copy.path()).expect_err(target);
            fs::remove_file(link).expect("remove");
        }
        volume.write("..1", &[("key", "one")]);
        let large = File::create(volume.path().join("..1/large")).expect("create");
        large.set_len(MOST_BYTES + 1).expect("large");
        let why = bring(volume.path(), copy.path()).expect_err("large");
        assert_eq!(why.to_string(), "the volume is too large to be copied");
        assert!(names(copy.path()).expect("names").is_empty());
        nix::unistd::mkfifo(
            &volume.path().join("..1/fifo"),
            nix::sys::stat::Mode::S_IRUSR,
        )
        .expect("fifo");
        fs::remove_file(volume.path().join("..1/large")).expect("remove");
        let why = bring(volume.path(), copy.path()).expect_err("a FIFO");
        assert!(why.to_string().ends_with("fifo: it is no file"), "{why}");
    }
}
