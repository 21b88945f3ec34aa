//! Makes roots: a small template, and what a case changes in it.
//!
//! Nothing here follows a link of the root that it makes.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, linkat, makedev, mkdirat, mknodat, openat,
    openat2, symlinkat,
};

use crate::canary::{DEVICES, DOOR, EMPTY, FILE, FULL};
use crate::case::Case;
use crate::kind::{DESCRIPTORS, Kind};
use crate::program;
use crate::shape::SHIFT;
use crate::site;

/// The volume's destination: what lies below it is made in the volume.
const VOLUME: &str = "/data/";

const DIRECTORIES: [&str; 22] = [
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "proc",
    "sys/fs/cgroup",
    "sys/firmware",
    "etc",
    "run",
    "tmp",
    "inside/rooms",
    "inside/not",
    "work",
    "home/app/code",
    "srv/a/b",
    "data",
    "cfg",
    "vol/x",
    "var",
    "secret/rooms",
    "frozen/rooms",
    "opt",
    "bin",
];

const FILES: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:x:0:0::/:/true\nuser:x:1000:1000::/home/app:/true\n",
    ),
    ("etc/group", "root:x:0:\nuser:x:1000:\n"),
    ("etc/resolv.conf", ""),
    ("etc/hostname", "image\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("cfg/app.conf", "image's\n"),
    ("secret/key", "image's\n"),
];

/// The longest name that there is.
const LONGEST_NAME: usize = 255;

/// The directories of a case.
pub struct Roots {
    /// What the container's root is made of.
    pub root: PathBuf,
    /// What is mounted in it.
    pub volume: PathBuf,
}

impl Roots {
    /// Makes both, as the case has them.
    pub fn make(&self, case: &Case, canary: &Path) {
        self.template();
        if case.mirrored {
            self.mirror(canary);
        }
        for (number, (site, kind)) in (case.number..).zip(&case.changes) {
            self.change(site.path, *kind, canary, number);
        }
        if case.shape.users {
            for directory in [&self.root, &self.volume] {
                shift(directory);
            }
        }
    }

    /// Where a path of the container's is made.
    pub fn at(&self, path: &str) -> PathBuf {
        let (top, below) = self.split(path);
        top.join(below)
    }

    fn split<'a>(&self, path: &'a str) -> (&Path, &'a str) {
        match path.strip_prefix(VOLUME) {
            Some(below) => (&self.volume, below),
            None => (&self.root, path.trim_start_matches('/')),
        }
    }

    fn template(&self) {
        for directory in DIRECTORIES {
            fs::create_dir_all(self.root.join(directory)).unwrap();
        }
        for (file, content) in FILES {
            fs::write(self.root.join(file), content).unwrap();
        }
        let program = self.root.join("true");
        fs::write(&program, program::bytes()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(self.volume.join("code")).unwrap();
        fs::create_dir_all(self.volume.join("sub/inner")).unwrap();
        fs::create_dir_all(self.volume.join("sub/rooms")).unwrap();
        fs::write(self.volume.join("sub/key"), "the volume's\n").unwrap();
    }

    /// What the links lead to exists in the image as well: they are no dangling ones there.
    fn mirror(&self, canary: &Path) {
        let inside = self.root.join(canary.strip_prefix("/").unwrap());
        for directory in [FULL, EMPTY, DEVICES] {
            fs::create_dir_all(inside.join(directory)).unwrap();
        }
        fs::write(inside.join(FILE), "the image's own").unwrap();
        symlink(".", inside.join(DOOR)).unwrap();
        self.mirror_proc();
    }

    /// The same for links by way of a process: in the image there is one as well.
    fn mirror_proc(&self) {
        let proc = self.root.join("proc");
        fs::create_dir_all(proc.join("1/fd")).unwrap();
        for name in ["self", "thread-self"] {
            symlink("1", proc.join(name)).unwrap();
        }
        for name in ["root", "cwd"] {
            symlink("/", proc.join("1").join(name)).unwrap();
        }
        for number in 0..DESCRIPTORS {
            symlink("/", proc.join("1/fd").join(number.to_string())).unwrap();
        }
    }

    /// Has something of this kind at a path, unless what leads there is no directory any more.
    fn change(&self, path: &str, kind: Kind, canary: &Path, number: u64) {
        let (top, below) = self.split(path);
        let (parent, name) = below.rsplit_once('/').unwrap_or((".", below));
        let Some(parent_fd) = open_parent(top, parent) else {
            return;
        };
        let place = top.join(parent).join(name);
        clear(&place);
        let maker = Maker {
            parent: parent_fd,
            name,
            path,
            place,
            root: top,
            canary,
            number,
        };
        maker.make(kind);
    }
}

fn open_parent(top: &Path, parent: &str) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let top = openat(rustix::fs::CWD, top, flags, Mode::empty()).unwrap();
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(top, parent, flags, Mode::empty(), resolve).ok()
}

fn clear(place: &Path) {
    match fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(place).unwrap(),
        Ok(_) => fs::remove_file(place).unwrap(),
        Err(_) => {}
    }
}

/// Gives all of a tree to the first user of the namespace, and so on.
fn shift(path: &Path) {
    let found = fs::symlink_metadata(path).unwrap();
    lchown(path, Some(SHIFT), Some(SHIFT)).unwrap();
    if found.is_file() || found.is_dir() {
        // Owners lose set-user-ID when they change.
        fs::set_permissions(path, found.permissions()).unwrap();
    }
    if found.is_dir() {
        for below in fs::read_dir(path).unwrap() {
            shift(&below.unwrap().path());
        }
    }
}

/// Makes one thing.
struct Maker<'a> {
    parent: OwnedFd,
    name: &'a str,
    /// As the container names it.
    path: &'a str,
    /// As we name it. Its directory was looked up without links.
    place: PathBuf,
    root: &'a Path,
    canary: &'a Path,
    number: u64,
}

impl Maker<'_> {
    fn make(&self, kind: Kind) {
        if let Some(target) = kind.target(self.path, self.canary, self.number) {
            return self.link(self.name, &target);
        }
        match kind {
            Kind::LoopOfTwo => {
                let other = format!(".{}-other", self.name);
                self.link(self.name, other.as_bytes());
                self.link(&other, self.name.as_bytes());
            }
            Kind::ChainOf30 => self.chain(30),
            Kind::ChainOf45 => self.chain(45),
            Kind::HardLink => self.hard_link(),
            Kind::CharacterDevice => self.node(FileType::CharacterDevice, 1, 3),
            Kind::EndlessDevice => self.node(FileType::CharacterDevice, 1, 5),
            Kind::TerminalDevice => self.node(FileType::CharacterDevice, 5, 0),
            Kind::BlockDevice => self.node(FileType::BlockDevice, 7, 250),
            Kind::Fifo => self.node(FileType::Fifo, 0, 0),
            Kind::Socket => self.node(FileType::Socket, 0, 0),
            Kind::Whiteout => self.node(FileType::CharacterDevice, 0, 0),
            Kind::File => self.file(b"a file of the image's\n", 0o644),
            Kind::EmptyFile => self.file(b"", 0o644),
            Kind::HugeFile => {
                self.file(b"", 0o644);
                let file = fs::File::options().write(true).open(&self.place).unwrap();
                // Holes take no room.
                file.set_len(3 << 30).unwrap();
            }
            Kind::SetuidFile => {
                self.file(&program::bytes(), 0o755);
                lchown(&self.place, Some(1000), Some(1000)).unwrap();
                self.mode(0o6755);
            }
            Kind::EmptyDirectory => self.directory(),
            Kind::FullDirectory => self.full_directory(),
            Kind::DirectoryOfLinks => self.directory_of_links(),
            Kind::DirectoryOfOddNames => self.directory_of_odd_names(),
            Kind::ReadOnlyDirectory => {
                self.directory();
                self.mode(0o555);
            }
            Kind::ClosedDirectory => {
                self.directory();
                self.mode(0);
            }
            _ => assert_eq!(kind, Kind::Missing),
        }
    }

    fn link(&self, name: &str, target: &[u8]) {
        // What a case of several changes has made here before.
        let _ = rustix::fs::unlinkat(&self.parent, name, AtFlags::empty());
        symlinkat(OsStr::from_bytes(target), &self.parent, name).unwrap();
    }

    /// Links to links, the last to the canary.
    fn chain(&self, length: u32) {
        let name = |step: u32| match step {
            0 => self.name.to_owned(),
            step => format!(".{}-{step}", self.name),
        };
        for step in 0..length - 1 {
            self.link(&name(step), name(step + 1).as_bytes());
        }
        let target = format!("{}/{DOOR}/{FULL}", self.canary.display());
        self.link(&name(length - 1), target.as_bytes());
    }

    /// To a file of the image's. A volume may be of another filesystem, and has its own.
    fn hard_link(&self) {
        let file = self.root.join("true");
        if !file.exists() {
            fs::write(&file, program::bytes()).unwrap();
        }
        linkat(
            rustix::fs::CWD,
            &file,
            &self.parent,
            self.name,
            AtFlags::empty(),
        )
        .unwrap();
    }

    fn node(&self, kind: FileType, major: u32, minor: u32) {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&self.parent, self.name, kind, mode, makedev(major, minor)).unwrap();
    }

    fn file(&self, content: &[u8], mode: u32) {
        fs::write(&self.place, content).unwrap();
        self.mode(mode);
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(&self.place, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn directory(&self) {
        mkdirat(&self.parent, self.name, Mode::from_raw_mode(0o755)).unwrap();
    }

    /// Something by each name, directories and files taking turns.
    fn full_directory(&self) {
        self.directory();
        for (turn, name) in site::names().into_iter().enumerate() {
            let below = self.place.join(name);
            match turn % 2 {
                0 => fs::create_dir_all(below.join("more/and/more")).unwrap(),
                _ => fs::write(below, "the image's").unwrap(),
            }
        }
    }

    fn directory_of_links(&self) {
        self.directory();
        let door = self.canary.join(DOOR);
        for (turn, name) in site::names().into_iter().enumerate() {
            let target = match turn % 3 {
                0 => door.join(FULL).join(name),
                1 => door.join(FULL),
                _ => door.join(EMPTY).join(name),
            };
            symlink(target, self.place.join(name)).unwrap();
        }
    }

    fn directory_of_odd_names(&self) {
        self.directory();
        let long = "n".repeat(LONGEST_NAME);
        fs::create_dir_all(self.place.join(&long).join(&long).join(&long)).unwrap();
        let odd: [&[u8]; 5] = [b"\xff\xfe", b" ", b"new\nline", b"\\134", b"-rf"];
        for name in odd {
            fs::write(self.place.join(OsStr::from_bytes(name)), name).unwrap();
        }
    }
}
