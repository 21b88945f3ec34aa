//! The paths of a root that the runtime touches, and which configurations make it touch them.

use crate::shape::{Dev, Shape};

/// A path of the root, and where it matters.
#[derive(Clone, Copy)]
pub struct Site {
    /// From the root, beginning with `/`.
    pub path: &'static str,
    /// Whether a container of this shape touches it.
    pub touched: fn(&Shape) -> bool,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

const fn site(path: &'static str, touched: fn(&Shape) -> bool) -> Site {
    Site { path, touched }
}

const ALWAYS: fn(&Shape) -> bool = |_| true;
/// The image's `/dev` is the container's.
const IN_DEV: fn(&Shape) -> bool = |shape| shape.dev != Dev::Tmpfs;
const MOUNT_IN_DEV: fn(&Shape) -> bool = |shape| shape.dev == Dev::Points;
/// The image's `/proc` is the container's.
const IN_PROC: fn(&Shape) -> bool = |shape| !shape.proc;
const IN_SYS: fn(&Shape) -> bool = |shape| !shape.sys;
const CGROUP: fn(&Shape) -> bool = |shape| !shape.sys && shape.cgroup;
const VOLUMES: fn(&Shape) -> bool = |shape| shape.volumes;
const DOTTED: fn(&Shape) -> bool = |shape| shape.dotted;
const FILES: fn(&Shape) -> bool = |shape| shape.files;
const TMPFS: fn(&Shape) -> bool = |shape| shape.tmpfs;
const CWD_OF_ONE: fn(&Shape) -> bool = |shape| shape.cwd == "/work";
const CWD_OF_THREE: fn(&Shape) -> bool = |shape| shape.cwd == "/home/app/code";
const CWD_IN_VOLUME: fn(&Shape) -> bool = |shape| shape.cwd.starts_with("/data");
const NESTED: fn(&Shape) -> bool = |shape| shape.nested;
const MASKED: fn(&Shape) -> bool = |shape| shape.masked;

/// All of them.
pub const SITES: &[Site] = &[
    site("/dev", ALWAYS),
    site("/dev/null", IN_DEV),
    site("/dev/zero", IN_DEV),
    site("/dev/full", IN_DEV),
    site("/dev/random", IN_DEV),
    site("/dev/urandom", IN_DEV),
    site("/dev/tty", IN_DEV),
    site("/dev/console", |shape| IN_DEV(shape) && shape.terminal),
    site("/dev/ptmx", IN_DEV),
    site("/dev/pts", MOUNT_IN_DEV),
    site("/dev/shm", MOUNT_IN_DEV),
    site("/dev/mqueue", MOUNT_IN_DEV),
    site("/dev/fd", IN_DEV),
    site("/dev/stdin", IN_DEV),
    site("/dev/stdout", IN_DEV),
    site("/dev/stderr", IN_DEV),
    site("/dev/core", IN_DEV),
    // A device of the configuration's, elsewhere than usual.
    site("/opt", |shape| shape.device),
    site("/opt/device", |shape| shape.device),
    site("/proc", ALWAYS),
    site("/proc/kcore", IN_PROC),
    site("/proc/sys", IN_PROC),
    site("/proc/self", IN_PROC),
    site("/sys", ALWAYS),
    site("/sys/firmware", IN_SYS),
    site("/sys/fs", CGROUP),
    site("/sys/fs/cgroup", CGROUP),
    site("/etc", ALWAYS),
    site("/etc/passwd", ALWAYS),
    site("/etc/group", ALWAYS),
    site("/etc/resolv.conf", FILES),
    site("/etc/hostname", FILES),
    site("/etc/hosts", FILES),
    site("/run", TMPFS),
    site("/tmp", TMPFS),
    site("/data", VOLUMES),
    site("/srv", VOLUMES),
    site("/srv/a", VOLUMES),
    site("/srv/a/b", VOLUMES),
    site("/cfg", VOLUMES),
    site("/cfg/app.conf", VOLUMES),
    site("/var", DOTTED),
    site("/vol", DOTTED),
    site("/vol/x", DOTTED),
    site("/work", CWD_OF_ONE),
    site("/home", CWD_OF_THREE),
    site("/home/app", CWD_OF_THREE),
    site("/home/app/code", CWD_OF_THREE),
    site("/data/code", CWD_IN_VOLUME),
    site("/data/sub", NESTED),
    site("/data/sub/inner", NESTED),
    site("/data/sub/file", NESTED),
    site("/data/sub/key", NESTED),
    site("/data/sub/rooms", NESTED),
    site("/secret", MASKED),
    site("/secret/key", MASKED),
    site("/secret/rooms", MASKED),
    site("/frozen", MASKED),
    site("/frozen/rooms", MASKED),
];

/// The last components of the paths, each once, and what else a directory of theirs holds.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = SITES
        .iter()
        .filter_map(|site| site.path.rsplit('/').next())
        .chain(["x", "b", "attr", "0"])
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether there are directories by this name among the paths: those that have others below, or that
/// something is mounted upon which is one.
pub fn holds_more(name: &str) -> bool {
    const OTHERS: &[&str] = &[
        "pts", "shm", "mqueue", "fd", "sys", "self", "firmware", "cgroup", "run", "tmp", "data",
        "b", "x", "work", "code", "rooms", "inner", "attr",
    ];
    let below = |site: &Site| site.path.split('/').rev().skip(1).any(|part| part == name);
    OTHERS.contains(&name) || SITES.iter().any(below)
}
