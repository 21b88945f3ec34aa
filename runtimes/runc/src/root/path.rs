//! Paths of the container's, resolved inside its root and nowhere else.
//!
//! What is resolved comes back as a descriptor, and every later step takes the descriptor: nothing is
//! looked at by name here to be used by name later. A path that exists is one `openat2`. What has to be
//! made is made component by component, from directories that are open already: the kernel never gets a
//! symlink to follow nor a `..` to climb, so however another container of the pod renames directories
//! of a shared volume meanwhile, no step leaves the root.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2, readlinkat,
    statat,
};
use rustix::io::{Errno, Result};

/// As many symlinks as the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// How often a step is tried again that somebody else keeps changing the ground of.
const MOST_TRIES: usize = 128;

/// Directories that have to be made: as runc's.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Files that have to be made to mount upon: as runc's.
const FILE: Mode = Mode::from_raw_mode(0o644);

/// A directory tree that no path leads out of.
#[derive(Debug)]
pub(crate) struct Confined(OwnedFd);

/// What a path has led to.
#[derive(Debug)]
pub(crate) struct Found {
    /// What is there; an `O_PATH` descriptor.
    pub(crate) fd: OwnedFd,
    /// Whether no symlink was met on the way, so that the path is what the kernel calls it, too.
    pub(crate) straight: bool,
    /// Whether it was there before.
    pub(crate) existed: bool,
}

/// A name in a directory, where something is or may be made. It is not that of a symlink, unless
/// somebody changes it at this moment.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory.
    pub(crate) directory: OwnedFd,
    /// The name, without any slash; never `.` or `..`.
    pub(crate) name: OsString,
    /// What has this name, if something does.
    pub(crate) found: Option<OwnedFd>,
}

/// What may be made where a path leads to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

impl Confined {
    /// The tree below a directory.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    /// Its root.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens what is at `path`, following symlinks inside the root.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd> {
        match self.resolve(path, OFlags::empty(), ResolveFlags::empty()) {
            // Too long to be told in one piece, or somebody renames directories all the time.
            Err(Errno::NAMETOOLONG | Errno::AGAIN) => {
                let place = Walk::new(self, path).place(false)?;
                place.found.ok_or(Errno::NOENT)
            }
            outcome => outcome,
        }
    }

    /// Opens what is at `path`, which must not have any symlink in it.
    ///
    /// # Errors
    /// `ELOOP` if there is one, `ENOTDIR` if `directory` is asked for and it is none.
    pub(crate) fn open_straight(&self, path: &Path, directory: bool) -> Result<OwnedFd> {
        let kind = match directory {
            true => OFlags::DIRECTORY,
            false => OFlags::empty(),
        };
        self.resolve(path, kind, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens what is at `path`, making it and the directories before it if need be, where the symlinks
    /// in it lead to: also those that led nowhere before. `what` is asked only if there is need.
    pub(crate) fn make(&self, path: &Path, what: impl FnOnce() -> Result<Make>) -> Result<Found> {
        match self.resolve(path, OFlags::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => {
                return Ok(Found {
                    fd,
                    straight: true,
                    existed: true,
                });
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NAMETOOLONG | Errno::AGAIN) => {}
            Err(why) => return Err(why),
        }
        let what = what()?;
        for _ in 0..MOST_TRIES {
            let mut walk = Walk::new(self, path);
            let place = match walk.place(true) {
                Ok(place) => place,
                // It is a directory that was passed already: the root, or one that `..` went back to.
                Err(Errno::ISDIR) => return walk.arrived(what),
                Err(why) => return Err(why),
            };
            let straight = walk.links == 0;
            let existed = place.found.is_some();
            let fd = match place.found {
                Some(fd) => Ok(fd),
                None => make_in(place.directory.as_fd(), &place.name, what),
            };
            match fd {
                Ok(fd) => {
                    return Ok(Found {
                        fd,
                        straight,
                        existed,
                    });
                }
                // Somebody was faster: see what is there now.
                Err(Errno::EXIST | Errno::LOOP) => {}
                Err(why) => return Err(why),
            }
        }
        Err(Errno::AGAIN)
    }

    /// As [`make`](Self::make), of a directory, but with no symlink anywhere in the path.
    ///
    /// # Errors
    /// `ELOOP` if there is one.
    pub(crate) fn make_straight_directory(&self, path: &Path) -> Result<Found> {
        let existed = self.open_straight(path, true);
        match existed {
            Ok(fd) => Ok(Found {
                fd,
                straight: true,
                existed: true,
            }),
            Err(Errno::NOENT) => match self.make(path, || Ok(Make::Directory))? {
                found if found.straight => Ok(found),
                _ => Err(Errno::LOOP),
            },
            Err(why) => Err(why),
        }
    }

    /// Where something may be made with the path `path`, with the directories before it made if need be.
    ///
    /// # Errors
    /// `EISDIR` if the path can't be anything but a directory that is there.
    pub(crate) fn place(&self, path: &Path) -> Result<Place> {
        Walk::new(self, path).place(true)
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | resolve;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        for _ in 0..MOST_TRIES {
            match openat2(&self.0, path, flags, Mode::empty(), how) {
                // A rename while there was a `..` in the path: the kernel can't tell where it led to.
                Err(Errno::AGAIN) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Makes what isn't there, and opens it.
fn make_in(directory: BorrowedFd<'_>, name: &OsStr, what: Make) -> Result<OwnedFd> {
    let kind = match what {
        Make::Directory => {
            mkdirat(directory, name, DIRECTORY)?;
            OFlags::DIRECTORY
        }
        Make::File => {
            mknodat(directory, name, FileType::RegularFile, FILE, 0)?;
            OFlags::empty()
        }
    };
    open_entry(directory, name, kind)
}

/// Opens an entry of a directory, be it a symlink itself.
fn open_entry(directory: BorrowedFd<'_>, name: &OsStr, kind: OFlags) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    openat(directory, name, flags, Mode::empty())
}

/// What a descriptor is of.
pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> Result<FileType> {
    let status = statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(status.st_mode))
}

/// A path without `.`, `..` and doubled slashes, relative to the root: as the configuration's are meant,
/// whatever there is on the way.
pub(crate) fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Going along a path.
struct Walk<'a> {
    root: &'a Confined,
    /// The directories passed, the innermost last; the root is before the first.
    passed: Vec<OwnedFd>,
    /// The components yet to come, the next one last.
    ahead: Vec<OsString>,
    /// How many symlinks were followed.
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Confined, path: &Path) -> Self {
        let mut walk = Self {
            root,
            passed: Vec::new(),
            ahead: Vec::new(),
            links: 0,
        };
        walk.put_ahead(path.as_os_str());
        walk
    }

    /// Goes on along `path`, and then along what there was to come before.
    fn put_ahead(&mut self, path: &OsStr) {
        let parts = path.as_bytes().split(|byte| *byte == b'/');
        let parts = parts.filter(|part| !part.is_empty() && *part != b".");
        self.ahead
            .extend(parts.rev().map(|part| OsStr::from_bytes(part).to_owned()));
    }

    fn here(&self) -> BorrowedFd<'_> {
        match self.passed.last() {
            Some(directory) => directory.as_fd(),
            None => self.root.as_fd(),
        }
    }

    /// Goes up to the last component, which is no symlink.
    fn place(&mut self, make: bool) -> Result<Place> {
        let mut tries = 0;
        while let Some(name) = self.ahead.pop() {
            if name == ".." {
                self.passed.pop();
                continue;
            }
            let entry = match self.ahead.is_empty() {
                true => match self.last(name)? {
                    Some(place) => return Ok(place),
                    None => continue,
                },
                false => open_entry(self.here(), &name, OFlags::DIRECTORY),
            };
            match entry {
                Ok(directory) => {
                    tries = 0;
                    self.passed.push(directory);
                }
                Err(Errno::NOENT) if make => {
                    tries += 1;
                    if tries > MOST_TRIES {
                        return Err(Errno::AGAIN);
                    }
                    match mkdirat(self.here(), &name, DIRECTORY) {
                        Ok(()) | Err(Errno::EXIST) => self.ahead.push(name),
                        Err(why) => return Err(why),
                    }
                }
                // A symlink is not a directory either.
                Err(Errno::NOTDIR) => {
                    self.follow(&open_entry(self.here(), &name, OFlags::empty())?)?
                }
                Err(why) => return Err(why),
            }
        }
        Err(Errno::ISDIR)
    }

    /// The last component's place; none if it was a symlink, and there is more to come.
    fn last(&mut self, name: OsString) -> Result<Option<Place>> {
        let found = match open_entry(self.here(), &name, OFlags::empty()) {
            Ok(found) if kind_of(found.as_fd())? == FileType::Symlink => {
                return self.follow(&found).map(|()| None);
            }
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(why) => return Err(why),
        };
        Ok(Some(Place {
            directory: self.leave()?,
            name,
            found,
        }))
    }

    /// The directory where the way ends.
    fn leave(&mut self) -> Result<OwnedFd> {
        match self.passed.pop() {
            Some(directory) => Ok(directory),
            None => self
                .root
                .as_fd()
                .try_clone_to_owned()
                .map_err(|_| Errno::MFILE),
        }
    }

    /// Goes where a symlink leads.
    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let target = match readlinkat(link, "", Vec::new()) {
            Ok(target) => OsString::from_vec(target.into_bytes()),
            // It is none.
            Err(Errno::NOENT | Errno::INVAL) => return Err(Errno::NOTDIR),
            Err(why) => return Err(why),
        };
        if target.as_bytes().starts_with(b"/") {
            self.passed.clear();
        }
        self.put_ahead(&target);
        Ok(())
    }

    /// The directory where the path came to its end.
    fn arrived(&mut self, wanted: Make) -> Result<Found> {
        match wanted {
            Make::File => Err(Errno::ISDIR),
            Make::Directory => Ok(Found {
                fd: self.leave()?,
                straight: self.links == 0,
                existed: true,
            }),
        }
    }
}
