//! A volume of files, as its bytes come from the host: made, and made anew, as the kubelet does it.
//!
//! The kubelet's layout (kubernetes/pkg/volume/util/atomic_writer.go): a directory of a version with the
//! files, the link `..data` to it, and a link to `..data/<name>` for each name in it. A new version is a new
//! directory and a new `..data`, renamed over the old one: who watches hears of it, and nobody sees half of
//! it. A volume that is one file is written in its place, as the kubelet does with `/etc/hosts`.
//!
//! What is in the volume's directory is not believed: a policy has volumes mounted read-only, but for a
//! permissive one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use trefoil_agent_protocol::service;
use trefoil_core::{Context, Error, Result};

use crate::mirror::{self, remove};

/// The link to the files of now, and what it is called before it is in its place.
const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// The two versions that there are in turn.
const VERSIONS: [&str; 2] = ["..version.0", "..version.1"];

/// A volume has no more files.
const MOST_FILES: usize = 1024;
/// No file is deeper, and no name longer.
const MOST_DEPTH: usize = 16;
const LONGEST_NAME: usize = 255;

/// Makes the volume at a place, or makes it anew.
///
/// # Errors
/// What is wrong with the files, and then nothing has changed; what the kernel says.
pub(super) fn put(place: &Path, files: &[service::File]) -> Result<()> {
    if let [file] = files
        && file.path.is_empty()
    {
        return put_single(place, file);
    }
    if files.len() > MOST_FILES {
        return Err(Error::invalid(format!(
            "there are {} files, more than {MOST_FILES}",
            files.len()
        )));
    }
    for file in files {
        check(&file.path)?;
    }
    make(place)?;
    // What is in the volume may be a container's: of its links none is believed.
    let now = fs::read_link(place.join(DATA)).ok();
    let (version, old) = match now.as_deref() == Some(Path::new(VERSIONS[0])) {
        true => (VERSIONS[1], VERSIONS[0]),
        false => (VERSIONS[0], VERSIONS[1]),
    };
    let made = beside(place)?;
    remove(&made)?;
    if let Err(why) = write(&made, files).and_then(|()| put_version(&made, place, version)) {
        remove(&made)?;
        return Err(why);
    }
    replace(Path::new(version), place, DATA)?;
    link(place, files)?;
    remove(&place.join(old))
}

/// Makes a directory, and those above it.
fn make(directory: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    let builder = builder.recursive(true).mode(0o755);
    let made = builder.create(directory);
    made.context(|| format!("make {}", directory.display()))
}

/// Where a version is made: where no container reaches, and under a name that no volume has.
fn beside(place: &Path) -> Result<PathBuf> {
    let name = place.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::internal("a volume has no name"))?;
    Ok(place.with_file_name(format!("{name}~new")))
}

/// Puts a version that has been made into its place in the volume.
fn put_version(made: &Path, place: &Path, version: &str) -> Result<()> {
    let directory = place.join(version);
    remove(&directory)?;
    fs::rename(made, &directory).context(|| format!("move {}", directory.display()))
}

/// That a path stays below the volume's directory, and names nothing of the layout's.
fn check(path: &str) -> Result<()> {
    let names: Vec<_> = path.split('/').collect();
    let sound = |name: &&str| {
        (1..=LONGEST_NAME).contains(&name.len())
            && !name.starts_with("..")
            && *name != "."
            && !name.contains('\0')
    };
    match names.len() <= MOST_DEPTH && names.iter().all(sound) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{:?} is no path of a file in a volume",
            &path[..path.floor_char_boundary(128)]
        ))),
    }
}

/// A volume that is one file. Who has it mounted has its inode.
fn put_single(place: &Path, file: &service::File) -> Result<()> {
    let doing = || format!("write {}", place.display());
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let opened = options.custom_flags(libc::O_NOFOLLOW).open(place);
    fill(opened.context(doing)?, file).context(doing)
}

/// Writes files below a directory, which was not there and which nobody else knows: so there is no link in it.
fn write(directory: &Path, files: &[service::File]) -> Result<()> {
    make(directory)?;
    for file in files {
        let path = directory.join(&file.path);
        let doing = || format!("write {}", file.path);
        if let Some(parent) = path.parent() {
            make(parent).map_err(|why| why.context(doing()))?;
        }
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let opened = options.open(&path).context(doing)?;
        fill(opened, file).context(doing)?;
    }
    Ok(())
}

fn fill(mut opened: File, file: &service::File) -> std::io::Result<()> {
    opened.write_all(&file.contents)?;
    // It is root's as it is made.
    if (file.user, file.group) != (0, 0) {
        fchown(&opened, Some(file.user), Some(file.group))?;
    }
    opened.set_permissions(mode(file))
}

fn mode(file: &service::File) -> Permissions {
    Permissions::from_mode(file.mode & 0o777)
}

/// Makes the links by which the files are known, and takes away those of others.
fn link(place: &Path, files: &[service::File]) -> Result<()> {
    let first = |file: &service::File| file.path.split('/').next().map(str::to_owned);
    let wanted: BTreeSet<String> = files.iter().filter_map(first).collect();
    let doing = || format!("list {}", place.display());
    for entry in fs::read_dir(place).context(doing)? {
        let name = entry.context(doing)?.file_name();
        let known = name.to_str().is_some_and(|name| wanted.contains(name));
        if !known && !name.to_string_lossy().starts_with("..") {
            remove(&place.join(name))?;
        }
    }
    for name in wanted {
        let target = PathBuf::from(DATA).join(&name);
        if fs::read_link(place.join(&name)).ok().as_ref() != Some(&target) {
            replace(&target, place, &name)?;
        }
    }
    Ok(())
}

/// Makes a link of the volume's, in one step in place of what is there; but for a directory, which no link
/// replaces.
fn replace(target: &Path, place: &Path, name: &str) -> Result<()> {
    let link = place.join(name);
    if fs::symlink_metadata(&link).is_ok_and(|found| found.is_dir()) {
        remove(&link)?;
    }
    mirror::replace(target, &link, &place.join(NEXT))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: &str, contents: &str) -> service::File {
        service::File {
            path: path.into(),
            contents: contents.into(),
            mode: 0o7644,
            ..Default::default()
        }
    }

    fn names(place: &Path) -> Vec<String> {
        let entries = fs::read_dir(place).expect("list").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with("..")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_volume_is_replaced_at_once() {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("config");
        put(&place, &[file("a", "one"), file("b/c", "two")]).expect("put");
        assert_eq!(names(&place), ["a", "b"]);
        assert_eq!(fs::read(place.join("b/c")).expect("read"), b"two");
        let mode = fs::metadata(place.join("a")).expect("there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o644);

        for round in 0..3 {
            let text = round.to_string();
            put(&place, &[file("a", &text), file("d", "new")]).expect("put");
            assert_eq!(names(&place), ["a", "d"]);
            assert_eq!(fs::read_to_string(place.join("a")).expect("read"), text);
            let versions = VERSIONS.iter().filter(|name| place.join(name).exists());
            assert_eq!(versions.count(), 1);
        }
        put(&place, &[]).expect("put");
        assert_eq!(names(&place), [""; 0]);
    }

    #[test]
    fn a_file_belongs_to_whom_the_request_says() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().expect("a directory");
        let mut token = file("token", "one");
        (token.user, token.group, token.mode) = (1000, 2000, 0o640);
        if !rustix::process::geteuid().is_root() {
            put(scratch.path(), &[token]).expect_err("nobody else gives files away");
            return;
        }
        for place in ["volume", "single"] {
            let mut token = token.clone();
            if place == "single" {
                token.path.clear();
            }
            let place = scratch.path().join(place);
            put(&place, &[token.clone()]).expect("put");
            let at = match token.path.as_str() {
                "" => place,
                path => place.join(path),
            };
            let found = fs::metadata(at).expect("there");
            assert_eq!((found.uid(), found.gid()), (1000, 2000));
            assert_eq!(found.mode() & 0o7777, 0o640);
        }
    }

    #[test]
    fn a_volume_of_one_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("hosts");
        put(&place, &[file("", "one")]).expect("put");
        let inode = fs::metadata(&place).expect("there").ino();
        put(&place, &[file("", "2")]).expect("put");
        assert_eq!(fs::read(&place).expect("read"), b"2");
        assert_eq!(fs::metadata(&place).expect("there").ino(), inode);
    }

    #[test]
    fn what_leaves_the_volume_is_refused_before_anything_changes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("config");
        put(&place, &[file("a", "one")]).expect("put");
        for wrong in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "..data/a",
            "..data",
            "a//b",
            "a/",
            ".",
            "x/./y",
            "x\0y",
            &"d/".repeat(16),
            &"n".repeat(256),
        ] {
            let why = put(&place, &[file(wrong, "x"), file("a", "other")]).expect_err(wrong);
            assert_eq!(why.kind(), trefoil_core::ErrorKind::InvalidArgument);
            assert_eq!(fs::read(place.join("a")).expect("read"), b"one", "{wrong}");
        }
        // The same name twice, as a file and as a directory, and with the empty one beside another.
        for wrong in [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["", "a"]] {
            put(&place, &wrong.map(|path| file(path, "x"))).expect_err(wrong[1]);
            assert_eq!(fs::read(place.join("a")).expect("read"), b"one");
        }
        let many: Vec<_> = (0..=MOST_FILES).map(|n| file(&n.to_string(), "")).collect();
        put(&place, &many).expect_err("too many");
        // What is a link is written over, and not written through.
        let outside = scratch.path().join("outside");
        fs::write(&outside, "kept").expect("write");
        symlink(&outside, place.join("b")).expect("link");
        put(&place, &[file("b", "new")]).expect("put");
        assert_eq!(fs::read(&outside).expect("read"), b"kept");
    }

    #[test]
    fn a_link_that_a_container_has_put_removes_nothing_elsewhere() {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("config");
        let victim = scratch.path().join("victim");
        fs::create_dir(&victim).expect("a directory");
        fs::write(victim.join("kept"), "kept").expect("write");
        for target in [Path::new("../victim"), &victim, Path::new("..")] {
            put(&place, &[file("a", "one")]).expect("put");
            fs::remove_file(place.join(DATA)).expect("there");
            symlink(target, place.join(DATA)).expect("link");
            put(&place, &[file("a", "two")]).expect("put");
            assert_eq!(fs::read(place.join("a")).expect("read"), b"two");
            assert_eq!(fs::read(victim.join("kept")).expect("read"), b"kept");
            let versions = VERSIONS.iter().filter(|name| place.join(name).exists());
            assert_eq!(versions.count(), 1, "{}", target.display());
        }
    }

    #[test]
    fn no_file_is_written_through_a_link_that_a_container_has_put() {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("config");
        let victim = scratch.path().join("victim");
        fs::create_dir(&victim).expect("a directory");
        put(&place, &[file("a/b", "one")]).expect("put");
        for version in VERSIONS {
            remove(&place.join(version)).expect("remove");
            symlink(&victim, place.join(version)).expect("link");
        }
        for name in [NEXT, "c"] {
            remove(&place.join(name)).expect("remove");
            symlink(&victim, place.join(name)).expect("link");
        }
        put(&place, &[file("a/b", "two"), file("c", "three")]).expect("put");
        assert_eq!(fs::read(place.join("a/b")).expect("read"), b"two");
        assert_eq!(names(&victim), [""; 0]);
        // Nor is a directory in the way of what is to be a link.
        remove(&place.join("c")).expect("remove");
        fs::create_dir_all(place.join("c/d")).expect("a directory");
        put(&place, &[file("c", "four")]).expect("put");
        assert_eq!(fs::read(place.join("c")).expect("read"), b"four");
    }

    #[test]
    fn a_volume_of_one_file_that_is_a_link_is_not_written_through() {
        let scratch = tempfile::tempdir().expect("a directory");
        let outside = scratch.path().join("outside");
        fs::write(&outside, "kept").expect("write");
        let place = scratch.path().join("hosts");
        symlink(&outside, &place).expect("link");
        put(&place, &[file("", "other")]).expect_err("a link");
        assert_eq!(fs::read(&outside).expect("read"), b"kept");
    }
}
