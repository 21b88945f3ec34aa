//! The canary: a filesystem that no container has any business with, into which the links of hostile
//! roots point. What is in it, and how, is written down and compared.
//!
//! All links go through a link of the canary's, the *door*. Following a link changes its time of access,
//! so that even a lookup is seen that opens nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use crate::place::mount_noting;
use crate::site;
use crate::watcher::Watcher;

/// The link that all others go through.
pub const DOOR: &str = "door";
/// A directory in which there is something by every name that a runtime knows.
pub const FULL: &str = "full";
/// A directory with nothing in it.
pub const EMPTY: &str = "empty";
/// A directory with nothing but files of the names of devices.
pub const DEVICES: &str = "devices";
/// A file that names users, as an image's `/etc/passwd` does.
pub const FILE: &str = "file";

/// More than the kernel's clock for times of files takes to move.
const A_TICK: Duration = Duration::from_millis(12);

/// The canary, and how it was when all was well.
pub struct Canary {
    path: PathBuf,
    watcher: Watcher,
    before: Tree,
}

/// Everything about everything, by path.
type Tree = BTreeMap<PathBuf, Entry>;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    device: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    accessed: (i64, i64),
    content: Vec<u8>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Canary {
    /// Makes one at `path`, a directory.
    pub fn new(path: &Path) -> Self {
        mount_noting("tmpfs", path, "mode=755");
        fill(path);
        // Made this long before, a later touch shows.
        std::thread::sleep(A_TICK);
        let watcher = Watcher::new(path);
        let before = look(path);
        watcher.drain();
        Self {
            path: path.to_owned(),
            watcher,
            before,
        }
    }

    /// The number of the canary's filesystem, as `stat` has it.
    pub fn device(&self) -> u64 {
        fs::metadata(&self.path).unwrap().dev()
    }

    /// What has happened to it since it was made or last asked. It is as new afterwards.
    pub fn touched(&mut self) -> Vec<String> {
        let mut found = self.watcher.drain();
        let after = look(&self.path);
        // Our own looking.
        self.watcher.drain();
        differences(&self.before, &after, &mut found);
        if !found.is_empty() {
            self.renew();
        }
        found
    }

    fn renew(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
        *self = Self::new(&self.path);
    }
}

/// Something for every name, and each kind of file.
fn fill(path: &Path) {
    symlink(".", path.join(DOOR)).unwrap();
    for directory in [EMPTY, FULL, DEVICES, "deep", "deep/a", "deep/a/b"] {
        fs::create_dir(path.join(directory)).unwrap();
    }
    let text = "root:x:0:0::/canary:/bin/sh\nuser:x:1000:1000::/canary:/bin/sh\n";
    fs::write(path.join(FILE), text).unwrap();
    fs::hard_link(path.join(FILE), path.join("second-name")).unwrap();
    for name in site::names() {
        let made = path.join(FULL).join(name);
        match site::holds_more(name) {
            true => fs::create_dir(&made).unwrap(),
            false => fs::write(&made, "precious").unwrap(),
        }
    }
    for name in ["ptmx", "null", "console"] {
        fs::write(path.join(DEVICES).join(name), "precious").unwrap();
    }
    symlink("deep/a", path.join("link")).unwrap();
    let labelled = path.join("deep/a/b/labelled");
    fs::write(&labelled, "with attributes").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(&labelled, "trusted.canary", b"sings", flags).unwrap();
}

fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
    look_below(root, &mut tree);
    tree
}

fn look_below(path: &Path, tree: &mut Tree) {
    let found = fs::symlink_metadata(path).unwrap();
    let content = match found.is_file() {
        true => read(path),
        false => Vec::new(),
    };
    let entry = Entry {
        inode: found.ino(),
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        links: found.nlink(),
        size: found.size(),
        device: found.rdev(),
        changed: (found.ctime(), found.ctime_nsec()),
        modified: (found.mtime(), found.mtime_nsec()),
        // Reading a directory, as this does, is an access to it; the watcher tells of others.
        accessed: match found.is_dir() {
            true => (0, 0),
            false => (found.atime(), found.atime_nsec()),
        },
        content,
        attributes: attributes(path),
    };
    tree.insert(path.to_owned(), entry);
    if found.is_dir() {
        for below in fs::read_dir(path).unwrap() {
            look_below(&below.unwrap().path(), tree);
        }
    }
}

/// Reads without an access being noted.
fn read(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    fs::File::options()
        .read(true)
        .custom_flags(libc::O_NOATIME | libc::O_NOFOLLOW)
        .open(path)
        .and_then(|mut file| file.read_to_end(&mut content))
        .unwrap();
    content
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

fn differences(before: &Tree, after: &Tree, found: &mut Vec<String>) {
    let name = |path: &Path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    for (path, entry) in before {
        match after.get(path) {
            None => found.push(format!("{} was removed", name(path))),
            Some(now) if now == entry => {}
            Some(now) => found.push(format!("{} {}", name(path), difference(entry, now))),
        }
    }
    for path in after.keys().filter(|path| !before.contains_key(*path)) {
        found.push(format!("{} was made", name(path)));
    }
}

fn difference(before: &Entry, now: &Entry) -> &'static str {
    let but_for_access = Entry {
        accessed: before.accessed,
        ..now.clone()
    };
    match but_for_access == *before {
        true => "was followed or read",
        false => "was changed",
    }
}
